package engine

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	segmentPrefix = "log-"
	firstAlloc    = 64 << 10 // bytes preallocated for a new segment
	growBy        = 1 << 20  // bytes that a large segment is extended by
	rotateAt      = 8 << 20  // bytes that a segment should not exceed
	keepBuffer    = 1 << 20  // a larger write buffer is not kept
)

// wal is the tenant's write-ahead log: segments, the last of which is written.
type wal struct {
	dir      directory
	segments []*segment // oldest first
	limit    int64      // bytes of a segment
	f        *os.File   // the last segment
	epoch    [8]byte
	used     int64  // bytes of the last segment that hold records
	alloc    int64  // bytes of it that are allocated
	durable  uint64 // the last sequence known to be synced
	lastMark uint64 // sequence of the last mark
	buf      []byte
	rotated  bool         // since the last look for segments to delete
	bytes    atomic.Int64 // of all segments on disk
}

// segment is one file of the log.
type segment struct {
	first uint64
	size  int64
	wrote time.Time         // when it was last written, of one found by Open
	last  map[string]uint64 // sequence of each document's last change in it, by name
}

func (s *segment) name() string { return fmt.Sprintf("%s%016x", segmentPrefix, s.first) }

func parseSegment(name string) (first uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, segmentPrefix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 16, 64)
	return first, err == nil
}

// unsaved returns the documents, of those open, with changes here that their
// files lack. One that was closed has none. The caller holds the engine's mu.
func (s *segment) unsaved(open map[string]*document) (docs []*document) {
	for name, seq := range s.last {
		if d := open[name]; d != nil && d.lacks(seq) {
			docs = append(docs, d)
		}
	}
	return docs
}

func (w *wal) oldest() *segment { return w.segments[0] }

// disposable reports whether no segment holds a change that its file lacks.
func (w *wal) disposable(open map[string]*document) bool {
	for _, s := range w.segments {
		if len(s.unsaved(open)) > 0 {
			return false
		}
	}
	return true
}

// begin starts a segment whose first record will be first. It gets its name
// only once its header is on disk, so a segment is never found without one; up
// to then a failure, even of its sync, concerns a file that goes away again.
func (w *wal) begin(first uint64, alloc int64) (err error) {
	f, err := w.dir.temp()
	if err != nil {
		return err
	}
	temp := f.Name()
	defer func() {
		if err != nil {
			f.Close()
			w.dir.remove(temp)
		}
	}()
	if err := preallocate(f, 0, alloc); err != nil {
		return err
	}
	var epoch [8]byte
	rand.Read(epoch[:])
	if _, err := f.WriteAt(appendSegmentHeader(nil, epoch, first), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	s := &segment{first: first, size: alloc, last: make(map[string]uint64)}
	if err := w.dir.rename(temp, w.dir, s.name()); err != nil {
		return err
	}
	if err := w.dir.sync(); err != nil {
		return unsynced{err}
	}
	if w.f != nil {
		w.f.Close()
	}
	w.f, w.epoch, w.used, w.alloc = f, epoch, segmentHeader, alloc
	w.segments = append(w.segments, s)
	w.bytes.Add(alloc)
	return nil
}

// empty replaces all segments by one without records.
func (w *wal) empty(next uint64) error {
	if w.used == segmentHeader && len(w.segments) == 1 {
		return nil
	}
	if err := w.begin(next, 4096); err != nil {
		return err
	}
	for len(w.segments) > 1 {
		if err := w.dropOldest(); err != nil {
			return err
		}
	}
	return nil
}

func (w *wal) dropOldest() error {
	s := w.oldest()
	if err := w.dir.remove(s.name()); err != nil {
		return err
	}
	w.segments = w.segments[1:]
	w.bytes.Add(-s.size)
	return nil
}

// write makes a batch durable, for whose records there is room.
func (w *wal) write(b *batch) error {
	current := w.segments[len(w.segments)-1]
	w.buf = w.buf[:0]
	for _, r := range b.records {
		ops := []op{r.op}
		switch r.op.kind {
		case opBase:
			r.doc.segment = current.first
		case opAppend, opPut, opDelete:
			if r.doc.segment != current.first {
				// What a document's changes in a segment lie on stands before
				// them, so that older segments can go.
				ops = []op{{kind: opBase, document: r.doc.name, file: b.base(r.doc)}, r.op}
				r.doc.segment = current.first
			}
			current.last[r.doc.name] = r.seq
		}
		w.buf = appendFrame(w.buf, w.epoch, r.seq, w.durable, ops...)
	}
	return w.flush(b.records[len(b.records)-1].seq)
}

// mark says in the log that all before it is durable.
func (w *wal) mark(seq uint64) error {
	w.buf = appendFrame(w.buf[:0], w.epoch, seq, w.durable, op{kind: opMark})
	w.lastMark = seq
	return w.flush(seq)
}

// marked reports whether a mark would say nothing new.
func (w *wal) marked() bool { return w.used == segmentHeader || w.lastMark == w.durable }

// flush appends the buffer and syncs it. last is the sequence it ends with.
func (w *wal) flush(last uint64) error {
	name := w.segments[len(w.segments)-1].name()
	if _, err := w.f.WriteAt(w.buf, w.used); err != nil {
		return fmt.Errorf("write log segment %s: %w", name, err)
	}
	if err := syncData(w.f); err != nil {
		return fmt.Errorf("sync log segment %s: %w", name, err)
	}
	w.used += int64(len(w.buf))
	w.durable = last
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	return nil
}

// reserve makes room up to size. The new length is synced before it is used:
// so a segment that ends without a frame's header of zeros was cut short by
// someone, never by a crash.
func (w *wal) reserve(size int64) error {
	if size <= w.alloc {
		return nil
	}
	alloc := enough(max(w.alloc, firstAlloc/2), size)
	if err := preallocate(w.f, w.alloc, alloc); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return unsynced{err}
	}
	w.bytes.Add(alloc - w.alloc)
	w.segments[len(w.segments)-1].size = alloc
	w.alloc = alloc
	return nil
}

// preallocate makes f to bytes long, zeros from from on. They are written, not
// only reserved: the sync of a record in a block that was never written has the
// file's metadata to write too, which takes half as long again.
func preallocate(f *os.File, from, to int64) error {
	if err := allocate(f, from, to); err != nil {
		return err
	}
	zeros := make([]byte, min(to-from, 64<<10))
	for from < to {
		n, err := f.WriteAt(zeros[:min(to-from, int64(len(zeros)))], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// resume goes on writing the last segment after used bytes. What follows them
// is the rest of a torn batch, or nothing, and becomes zero.
//
// What no record says was synced may be in the kernel's cache alone. If the
// process died before its sync, a sync is missing; if the sync failed, the cache
// may call those pages clean, and a sync would do nothing and report success. So
// they are written again first: what is served from now on is on disk.
func (w *wal) resume(s *segment, epoch [8]byte, data []byte, used int64) error {
	f, err := w.dir.open(s.name(), unix.O_RDWR)
	if err != nil {
		return err
	}
	w.f, w.epoch, w.used, w.alloc = f, epoch, used, int64(len(data))
	from, to := confirmed(data[:used], epoch), used
	if rest := data[used:]; !zero(rest) {
		clear(rest)
		to = int64(len(data))
	}
	if from == to {
		return nil
	}
	if _, err := f.WriteAt(data[from:to], from); err != nil {
		return err
	}
	return f.Sync()
}

func (w *wal) close() {
	if w.f != nil {
		w.f.Close()
	}
}
