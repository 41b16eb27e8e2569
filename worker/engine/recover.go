package engine

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// history is what the log says about one document.
type history struct {
	files   []fileRecord // in the order of the log
	saved   uint64       // the highest sequence that a file is confirmed to hold
	changes []logged
	spans   map[*segment]uint64 // sequence of the last change in each segment
	wrote   time.Time           // the last change, about: the log keeps no times
}

// logged is a change with its sequence; the text is the segment's memory.
type logged struct {
	seq uint64
	op  op
}

// unsaved reports whether there are changes that no file is confirmed to hold.
func (h *history) unsaved() bool {
	return len(h.changes) > 0 && h.changes[len(h.changes)-1].seq > h.saved
}

// find returns the newest record of the file that present describes, among
// those that may be in place.
func (h *history) find(present fileRecord) (file fileRecord, found bool) {
	for _, f := range h.files {
		if f.seq >= h.saved && f.same(present) {
			file, found = f, true
		}
	}
	return file, found
}

// recover reads the log and brings every document with unsaved changes back to
// where it was.
func (e *Engine) recover() error {
	names, err := e.control.names()
	if err != nil {
		return fmt.Errorf("list the log: %w", err)
	}
	e.wal = &wal{dir: e.control, limit: e.opts.segment}
	for _, name := range names {
		if strings.HasPrefix(name, tempPrefix) {
			e.control.remove(name) // of a checkpoint that never came to be
		}
	}
	if err := e.readKeys(); err != nil {
		return e.refuse(err)
	}
	e.wal.segments = segmentsOf(names)
	if len(e.wal.segments) == 0 {
		e.keys.file.saved = 0 // of the log that was here
		return e.wal.begin(1, firstAlloc)
	}
	histories, err := e.readLog()
	if err != nil {
		return e.refuse(err)
	}
	e.keys.file.saved = min(e.keys.file.saved, e.seq)
	// A process that died between a rename and its sync left a name that only
	// the kernel's cache may know. One that ended well left an empty segment
	// that is not its first.
	if s := e.wal.oldest(); len(e.wal.segments) > 1 || e.wal.used > segmentHeader || s.first == 1 {
		if err := errors.Join(e.dir.sync(), e.control.sync()); err != nil {
			return fmt.Errorf("sync the data directory: %w", err)
		}
	}
	if err := e.control.remove(quarantine); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the note of earlier damage: %w", err)
	}
	for name, h := range histories {
		e.restore(name, h)
	}
	e.settleKeys()
	e.trim() // of what a crash kept from being removed
	e.bury()
	return nil
}

// refuse leaves a note where err is damage.
func (e *Engine) refuse(err error) error {
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		e.quarantine(corrupt)
	}
	return err
}

// segmentsOf returns the segments among files of the control folder, oldest
// first.
func segmentsOf(names []string) (segments []*segment) {
	for _, name := range names {
		if first, ok := parseSegment(name); ok {
			segments = append(segments, &segment{first: first, last: make(map[string]uint64)})
		}
	}
	slices.SortFunc(segments, func(a, b *segment) int { return cmp.Compare(a.first, b.first) })
	return segments
}

// scan is [scanSegment] for a segment that must begin with the record after the
// one given, as its name says it does.
func (s *segment) scan(data []byte, after uint64, last bool, record func(seq uint64, ops []op)) (end int, next uint64, err error) {
	if _, first, ok := readSegmentHeader(data); ok && first != s.first {
		return 0, 0, &CorruptError{File: s.name(), Reason: fmt.Sprintf("it begins with record %d, not the one in its name", first)}
	} else if ok && first != after+1 {
		return 0, 0, &CorruptError{File: s.name(), Reason: fmt.Sprintf("it begins with record %d, but the segment before ends with %d", first, after)}
	}
	return scanSegment(s.name(), data, last, record)
}

// quarantine leaves a note of why the directory is not opened. Nothing else is
// touched, so that whoever repairs it finds what the disk held.
func (e *Engine) quarantine(cause *CorruptError) {
	f, err := e.control.open(quarantine, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	if err == nil {
		_, err = fmt.Fprintln(f, cause)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		e.log.Warn("cannot leave a note of the damage", zap.Error(err))
	}
}

// readLog reads all segments, and leaves the log ready to be continued.
func (e *Engine) readLog() (map[string]*history, error) {
	histories := make(map[string]*history)
	w := e.wal
	e.seq = w.segments[0].first - 1
	for i, s := range w.segments {
		last := i == len(w.segments)-1
		data, err := e.readSegment(s)
		if err != nil {
			return nil, err
		}
		s.size = int64(len(data))
		w.bytes.Add(s.size)
		end, next, err := s.scan(data, e.seq, last, func(seq uint64, ops []op) {
			for _, o := range ops {
				note(histories, s, seq, o)
			}
			e.keys.note(s, seq, ops, e.opts.now())
		})
		if err != nil {
			return nil, err
		}
		e.seq = next - 1
		if last {
			epoch, _, _ := readSegmentHeader(data)
			if !zero(data[end:]) {
				e.log.Warn("dropped the end of the log: a batch that was being written when the worker stopped and was never acknowledged",
					zap.String("segment", s.name()), zap.Int("offset", end))
			}
			if err := w.resume(s, epoch, data, int64(end)); err != nil {
				return nil, fmt.Errorf("continue log segment %s: %w", s.name(), err)
			}
		}
	}
	w.durable = e.seq
	return histories, nil
}

func (e *Engine) readSegment(s *segment) ([]byte, error) {
	f, err := e.control.open(s.name(), unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("open log segment %s: %w", s.name(), foreign(err))
	}
	defer f.Close()
	id, err := identityOfFile(f)
	if err == nil && !id.regular {
		err = foreign(ErrNotRegular)
	}
	if err != nil {
		return nil, fmt.Errorf("open log segment %s: %w", s.name(), err)
	}
	s.wrote = time.Unix(0, id.mtime).UTC()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read log segment %s: %w", s.name(), err)
	}
	return data, nil
}

func note(histories map[string]*history, s *segment, seq uint64, o op) {
	if o.kind == opMark || o.kind == opKey {
		return
	}
	h := histories[o.document]
	if h == nil {
		h = &history{spans: make(map[*segment]uint64)}
		histories[o.document] = h
	}
	switch o.kind {
	case opBase:
		h.saved = max(h.saved, o.file.seq)
		h.files = append(h.files, o.file)
	case opIntent:
		h.files = append(h.files, o.file)
	default:
		h.changes = append(h.changes, logged{seq, o})
		h.spans[s] = seq
		h.wrote = s.wrote
	}
}

// restore brings one document back. The log names the files that the document
// may have: the newest one confirmed to be in place, and those that were about
// to be. Whichever the directory holds says which changes it contains; the rest
// is applied to it, so that nothing is applied twice and nothing is left out.
func (e *Engine) restore(name string, h *history) {
	if !h.unsaved() {
		return // a file edited since is simply the document now
	}
	d := &document{name: name}
	e.enterLocked(d)
	for s, seq := range h.spans {
		s.last[name] = seq
	}
	b, err := openBase(e.dir, name, e.opts.layout)
	if err != nil {
		d.failure = err
		d.failureID, _ = e.dir.stat(d.file())
		e.orphan(d, h)
		return
	}
	file, found := h.find(b.record)
	if !found {
		e.adopt(d, b)
		b.record.seq = h.saved
		d.publish(d.now.snapshot())
		e.orphan(d, h)
		return
	}
	e.adopt(d, b)
	b.record.seq = file.seq
	d.now.seq = b.record.seq
	before := d.now.size
	for _, ch := range h.changes {
		if ch.seq > b.record.seq {
			d.now.replay(ch.op, ch.seq)
			d.now.time = h.wrote
			e.soil(d, int64(len(ch.op.text)))
		}
	}
	e.total += d.now.size - before
	d.publish(d.now.snapshot())
}

// orphan keeps the changes of a document whose file is not the one they belong
// to. Applied to nothing they give at least every text they hold.
func (e *Engine) orphan(d *document, h *history) {
	d.orphan = newContent(absent(h.saved))
	for _, ch := range h.changes {
		if ch.seq > h.saved {
			d.orphan.replay(ch.op, ch.seq)
		}
	}
	e.account(d)
	e.log.Warn("document was edited on disk before its last changes were in the file; it takes no changes until it is loaded",
		zap.String("document", d.name))
}

// logRecovered says in the log which file each restored document turned out to
// have, so that the segments before are no longer needed to know.
//
// A full disk keeps nobody from reading: without these records the log is read
// again next time, to the same end; but for keys to confirm, which hold only until
// then if their documents are changed meanwhile.
func (e *Engine) logRecovered() error {
	var restored []*document
	claimed := e.confirmSize()
	for _, d := range e.docs {
		if d.orphan == nil {
			restored = append(restored, d)
			claimed += recordSize(d.name, 0)
		}
	}
	if err := e.claim(claimed); harmless(err) {
		e.log.Warn("the disk is full: documents can be read, writes are refused", zap.Error(err))
		return nil
	} else if err != nil {
		return err
	}
	e.mu.Lock()
	last := e.confirmLocked()
	var err error
	for _, d := range restored {
		if last, err = e.submit(d, opBase, d.now.base.record); err != nil {
			break
		}
	}
	e.mu.Unlock()
	if err != nil || last == nil {
		return err
	}
	return last.wait()
}
