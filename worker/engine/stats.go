package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/sqedge/sqedge/shared/wire"
)

// Info describes one document.
type Info struct {
	Name     string
	Bytes    int64 // of its text, breaks included
	Scrolls  int64 // that are not empty
	Modified time.Time
	Err      error // a *[DocumentError] where the document cannot be read
}

// Stats describe all documents of a tenant.
type Stats struct {
	StorageBytes int64  // text of all documents, breaks included: what the quota counts
	Documents    int    // that exist, readable or not
	Scrolls      int64  // that are not empty
	Seq          uint64 // the last one given out
	LogBytes     int64  // of the write-ahead log on disk
}

// counted is what a document that is not open holds.
type counted struct {
	id   identity
	info Info
	seq  uint64 // up to which the file holds its changes; 0 where it was not open yet
}

// same reports whether no other file was counted meanwhile.
func (c counted) same(d counted) bool { return c.id == d.id && c.seq == d.seq }

// List describes every document, by name. A document that was not opened yet is
// read once, to count its scrolls, and not kept open.
func (e *Engine) List() ([]Info, error) {
	e.mu.Lock()
	open := make(map[string]*document, len(e.docs))
	for name, d := range e.docs {
		open[name] = d
	}
	closing := e.closing
	e.mu.Unlock()
	if closing {
		return nil, ErrClosed
	}
	files, err := e.dir.names()
	if err != nil {
		return nil, err
	}
	var infos []Info
	onDisk := make(map[string]bool)
	seen := make(map[string]bool)
	for _, file := range files {
		name, ok := documentOf(file)
		onDisk[name] = ok
		if !ok || open[name] != nil && open[name].state.Load() != nil {
			continue
		}
		info, exists, err := e.count(name)
		if err != nil {
			return nil, err
		}
		if exists {
			infos = append(infos, info)
			seen[name] = true
		}
	}
	for name := range open {
		if seen[name] {
			continue
		}
		v, err := e.View(name)
		if err != nil {
			infos = append(infos, Info{Name: name, Err: err})
			continue
		}
		if v.Exists() {
			infos = append(infos, Info{Name: name, Bytes: v.Bytes(), Scrolls: v.Count(), Modified: v.Modified()})
		}
		v.Close()
	}
	e.forget(onDisk)
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return infos, nil
}

// forget takes documents off the total that were removed by hand.
func (e *Engine) forget(onDisk map[string]bool) {
	gone := make(map[string]counted)
	e.mu.Lock()
	for name := range e.sizes {
		if !onDisk[name] {
			gone[name] = e.counts[name]
		}
	}
	e.mu.Unlock()
	for name, known := range gone {
		// It may have been opened, written and closed since the listing.
		if id, err := e.dir.stat(name + wire.DocumentExt); err != nil || id.exists {
			continue
		}
		e.mu.Lock()
		if size, closed := e.sizes[name]; closed && e.counts[name].same(known) {
			e.total -= size
			delete(e.sizes, name)
			delete(e.counts, name)
		}
		e.mu.Unlock()
	}
}

// count describes a document that is not open.
func (e *Engine) count(name string) (info Info, exists bool, err error) {
	id, err := e.dir.stat(name + wire.DocumentExt)
	if err != nil || !id.exists {
		return info, false, err
	}
	e.mu.Lock()
	known, ok := e.counts[name]
	e.mu.Unlock()
	if ok && known.id == id {
		return known.info, true, nil
	}
	info = Info{Name: name, Modified: time.Unix(0, id.mtime).UTC()}
	if id.regular {
		info.Bytes = id.size
	}
	if b, err := openBase(e.dir, name, e.opts.layout); err != nil {
		info.Err = err
	} else {
		info.Scrolls = int64(b.index.scrolls)
		b.release()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if d := e.docs[name]; (d == nil || d.now == nil) && e.counts[name].same(known) {
		if info.Err == nil || lasting(info.Err) {
			e.counts[name] = counted{id: id, info: info}
		}
		e.total += info.Bytes - e.sizes[name]
		e.sizes[name] = info.Bytes
	}
	return info, true, nil
}

// Stats counts all documents; see [Engine.List] for its cost.
func (e *Engine) Stats() (Stats, error) {
	infos, err := e.List()
	if err != nil {
		return Stats{}, err
	}
	s := Stats{Documents: len(infos), LogBytes: e.wal.bytes.Load()}
	for _, info := range infos {
		s.Scrolls += info.Scrolls
	}
	e.mu.Lock()
	s.StorageBytes, s.Seq = e.total, e.seq
	e.mu.Unlock()
	return s, nil
}
