package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// Report is what [Check] found.
type Report struct {
	Findings  []Finding
	Tenant    string // whose directory it is; empty where no worker has opened it yet
	Documents int    // that can be read
	Scrolls   int64  // of these, that are not empty
	Bytes     int64  // of these, breaks included: what the quota counts
	Unsaved   int    // of these, with changes that only the log holds
	Segments  int
	Records   int    // of the log, that verify
	FirstSeq  uint64 // of these; 0 without one
	LastSeq   uint64 // of these; 0 without one
}

// Damaged reports whether any finding is damage.
func (r *Report) Damaged() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Damage })
}

// Check verifies every file of the data directory at path and changes nothing.
// While it runs no worker can open the directory. The error, [ErrLocked] while a
// worker runs, says why it could not look; damage is no error.
func Check(path string) (*Report, error) {
	o, err := openOffline(path)
	if err != nil {
		return nil, err
	}
	defer o.close()
	r := &Report{Tenant: o.owner.Tenant, Segments: len(o.segments)}
	err = o.readLog(func(rec Record) error {
		if r.FirstSeq == 0 {
			r.FirstSeq = rec.Seq
		}
		r.LastSeq = rec.Seq
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.Records = o.records
	for _, lost := range o.lost {
		o.damage(controlFolder, lost.String()+" missing")
	}
	names, err := o.documents()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		o.checkDocument(name, r)
	}
	if err := o.checkTrash(); err != nil {
		return nil, err
	}
	r.Findings = o.findings
	return r, nil
}

func (o *offline) checkDocument(name string, r *Report) {
	d := o.document(name)
	defer d.close()
	if d.err != nil {
		o.damage(d.file(), reason(d.err))
	}
	switch {
	case d.orphan == nil:
	case o.damaged:
		o.damage(d.file(), "which of its changes in the log it holds cannot be said, since the log is damaged")
	case d.err != nil:
		o.damage(d.file(), "the log holds changes that it lacks")
	default:
		o.damage(d.file(), "it is not the file that its changes in the log lie on: it was edited, replaced or damaged; "+
			"a worker serves it as it is and takes no changes until the document is loaded, which keeps those in the log as another document")
	}
	if d.served == nil {
		return
	}
	if h := o.histories[name]; h != nil && !o.damaged && len(h.files) > 0 && d.orphan == nil {
		if _, found := h.find(d.served.base.record); !found {
			o.note(d.file(), "it is not the file that was written last: it was edited, replaced, removed or damaged since; a worker takes it as it is")
		}
	}
	if d.served.exists() {
		r.Documents++
		r.Scrolls += d.served.count
		r.Bytes += d.served.size
	}
	if d.served.modified {
		r.Unsaved++
	}
}

// checkTrash verifies the documents that were removed.
func (o *offline) checkTrash() error {
	f, err := o.engine.dir.open(trashFolder, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if isOddFile(err) {
		o.damage(trashFolder, "it is not a folder, so no document can be removed")
		return nil
	}
	if err != nil {
		return fmt.Errorf("open folder %s: %w", trashFolder, err)
	}
	defer f.Close()
	trash := directory{f}
	files, err := trash.names()
	if err != nil {
		return fmt.Errorf("list removed documents: %w", err)
	}
	slices.Sort(files)
	for _, file := range files {
		name, ok := documentOf(file)
		if !ok {
			o.note(trashFolder+"/"+file, "not a document")
			continue
		}
		if b, err := openBase(trash, name, o.engine.opts.layout); err != nil {
			o.damage(trashFolder+"/"+file, reason(err))
		} else {
			b.release()
		}
	}
	return nil
}

// reason is why a document cannot be read, without its name.
func reason(err error) string {
	var doc *DocumentError
	if errors.As(err, &doc) {
		err = doc.Err
	}
	return err.Error()
}
