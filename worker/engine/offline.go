package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// Finding is something that a look at a data directory brought up.
type Finding struct {
	File   string // name in the data directory, such as "notes.phext" or ".sq/log-0000000000000001"
	Damage bool   // false for what is worth knowing but loses nothing and stops no worker
	Text   string
}

func (f Finding) String() string {
	kind := "note"
	if f.Damage {
		kind = "damage"
	}
	return fmt.Sprintf("%s: %q: %s", kind, f.File, f.Text)
}

// offline is a data directory that no worker has open, to be looked at and
// never changed. It reads with the engine's own recovery, on an engine that is
// not running, so that both come to the same answer.
type offline struct {
	engine    *Engine // its control.f is nil where there is no .sq
	owner     owner   // zero where the directory does not say
	segments  []*segment
	findings  []Finding
	records   int                 // that verify
	seq       uint64              // the highest the log can have given out
	lost      []seqRange          // sequences that are missing, ascending
	histories map[string]*history // from the records that verify
	damaged   bool                // the log, which a worker would refuse
}

// seqRange is a range of sequences, both ends included.
type seqRange struct{ from, to uint64 }

// openOffline opens the data directory at path and keeps workers away from it
// until close. The error is [ErrLocked] while a worker runs.
func openOffline(path string) (*offline, error) {
	o := &offline{
		engine: &Engine{
			opts:  Options{layout: defaultLayout, now: time.Now},
			log:   zap.NewNop(),
			docs:  make(map[string]*document),
			dirty: make(map[*document]struct{}),
			sizes: make(map[string]int64),
		},
		histories: make(map[string]*history),
	}
	if err := o.open(path); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (o *offline) open(path string) (err error) {
	e := o.engine
	if e.dir, err = openDirectory(path); err != nil {
		return err
	}
	e.control.f, err = e.dir.open(controlFolder, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if isOddFile(err) {
		o.damage(controlFolder, "it is not a folder, so no worker opens this directory")
		return nil
	}
	if err != nil {
		return fmt.Errorf("open folder %s: %w", controlFolder, err)
	}
	if err := o.lock(); err != nil {
		return err
	}
	names, err := e.control.names()
	if err != nil {
		return fmt.Errorf("list the log: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		_, isSegment := parseSegment(name)
		switch {
		case isSegment, name == lockFile, name == identityFile, name == keysFile:
		case strings.HasPrefix(name, tempPrefix):
			o.note(controlFolder+"/"+name, "a file that was never finished; the next worker removes it")
		case name == quarantine:
			o.note(controlFolder+"/"+name, "a worker refused to open this directory and left its reason here")
		default:
			o.note(controlFolder+"/"+name, "not a file of the engine's")
		}
	}
	o.checkOwner()
	if err := e.readKeys(); err != nil {
		o.damage(controlFolder+"/"+keysFile, err.Error())
	}
	o.segments = segmentsOf(names)
	return nil
}

// lock takes the flock that a worker holds, shared with others that only look.
// A directory without a lock file has never had a worker.
func (o *offline) lock() (err error) {
	e := o.engine
	e.lock, err = e.control.open(lockFile, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if isOddFile(err) {
		o.damage(controlFolder+"/"+lockFile, ErrNotRegular.Error()+", so no worker opens this directory")
		return nil
	}
	if err == nil {
		err = directory{e.lock}.at(func(fd int) error { return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) })
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

func (o *offline) close() { o.engine.releaseFiles() }

func (r seqRange) String() string {
	if r.from == r.to {
		return fmt.Sprintf("record %d is", r.from)
	}
	return fmt.Sprintf("records %d to %d are", r.from, r.to)
}

func (o *offline) damage(file, text string) {
	o.findings = append(o.findings, Finding{file, true, text})
}

func (o *offline) note(file, text string) {
	o.findings = append(o.findings, Finding{file, false, text})
}

// readLog calls fn for every record that verifies, also for those after
// damage, in the order of the log, and fills in what they say.
func (o *offline) readLog(fn func(Record) error) error {
	for i, s := range o.segments {
		if err := o.readSegment(s, i == len(o.segments)-1, fn); err != nil {
			return err
		}
	}
	return nil
}

func (o *offline) readSegment(s *segment, last bool, fn func(Record) error) error {
	file := controlFolder + "/" + s.name()
	data, readErr := o.engine.readSegment(s)
	first := s.first
	if _, n, ok := readSegmentHeader(data); ok {
		first = n // whatever its name says
	}
	if s == o.segments[0] {
		o.seq = first - 1
	} else if first != o.seq+1 {
		o.damaged = true
		o.damage(file, fmt.Sprintf("it begins with record %d, but the last one before it that verifies is %d", first, o.seq))
	}
	o.missing(first)
	if readErr != nil {
		o.damaged = true
		o.damage(file, readErr.Error())
		return nil
	}
	var corrupt *CorruptError
	end, _, err := s.scan(data, first-1, last, func(uint64, []op) {})
	switch {
	case errors.As(err, &corrupt):
		o.damaged = true
		o.damage(file, fmt.Sprintf("damaged at byte %d: %s", corrupt.Offset, corrupt.Reason))
		if len(data) < segmentHeader {
			return nil
		}
		end = len(data)
	case !zero(data[end:]):
		o.note(file, fmt.Sprintf("from byte %d on it holds a batch that was being written when the worker stopped; it was never acknowledged, and the next worker drops it", end))
	}
	// Of a damaged header the epoch may still be right; then records verify.
	epoch := [8]byte(data[8:16])
	for at, f := range frames(data[segmentHeader:end], epoch) {
		if f.seq <= o.seq {
			continue
		}
		o.missing(f.seq)
		o.seq = f.seq
		at += segmentHeader
		ops, err := decodeOps(f.payload)
		if err != nil {
			o.lost = append(o.lost, seqRange{f.seq, f.seq})
			continue
		}
		o.records++
		o.engine.keys.note(s, f.seq, ops, o.engine.opts.now())
		for _, p := range ops {
			if err := p.check(); err != nil {
				o.damaged = true
				o.damage(file, fmt.Sprintf("record %d at byte %d: %v", f.seq, at, err))
			} else {
				note(o.histories, s, f.seq, p)
			}
			if err := fn(newRecord(s, at, f, p)); err != nil {
				return err
			}
		}
	}
	if corrupt != nil && last {
		// Records that do not verify had sequences, too, and a reader may know
		// them: no later record may have the same.
		o.seq = max(o.seq, first+uint64(len(data)/frameHeader))
	}
	return nil
}

// missing notes the sequences between the last record and next.
func (o *offline) missing(next uint64) {
	if next > o.seq+1 {
		o.lost = append(o.lost, seqRange{o.seq + 1, next - 1})
		o.seq = next - 1
	}
}

// check says what is wrong with an operation that verifies, but that no worker
// of this version writes.
func (o op) check() error {
	if o.kind == opMark || o.kind == opKey {
		return nil
	}
	if err := wire.CheckDocument(o.document); err != nil {
		return err
	}
	if !utf8.Valid(o.text) {
		return errors.New("its text is not valid UTF-8")
	}
	if phext.IndexBreak(o.text) >= 0 {
		return errors.New("its text holds a break byte")
	}
	return nil
}

// documents returns the names of all documents that have a file or are in the
// log, sorted, and notes what else the directory holds.
func (o *offline) documents() ([]string, error) {
	files, err := o.engine.dir.names()
	if err != nil {
		return nil, fmt.Errorf("list documents: %w", err)
	}
	slices.Sort(files)
	var names []string
	for _, file := range files {
		if name, ok := documentOf(file); ok {
			names = append(names, name)
		} else if file != controlFolder && file != trashFolder {
			o.note(file, "not a document of the tenant's; no worker reads it")
		}
	}
	for name := range o.histories {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// offlineDocument is a document as a worker would serve it.
type offlineDocument struct {
	name   string
	served *content // nil where the file cannot be read
	err    error    // why it cannot
	orphan *content // the changes that do not belong to the file, nil without any
	close  func()   // ends what the others refer to
}

func (d *offlineDocument) file() string { return d.name + wire.DocumentExt }

// document brings a document to where a worker would bring it.
func (o *offline) document(name string) (d *offlineDocument) {
	err := guard(func() error {
		d = o.restore(name)
		return nil
	})
	if err != nil {
		return &offlineDocument{name: name, err: err, close: func() {}}
	}
	return d
}

func (o *offline) restore(name string) *offlineDocument {
	e := o.engine
	if h := o.histories[name]; h != nil && h.unsaved() {
		e.restore(name, h)
		d := e.docs[name]
		delete(e.docs, name)
		delete(e.dirty, d)
		return &offlineDocument{name: name, served: d.now, err: d.failure, orphan: d.orphan, close: d.close}
	}
	b, err := openBase(e.dir, name, e.opts.layout)
	if err != nil {
		return &offlineDocument{name: name, err: err, close: func() {}}
	}
	c := newContent(b)
	return &offlineDocument{name: name, served: c, close: c.release}
}
