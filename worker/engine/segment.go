package engine

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// segment is one file of the log.
type segment struct {
	first uint64
	size  int64
	wrote time.Time         // when it was last written, of one found by Open
	last  map[string]uint64 // sequence of each document's last change in it, by name
	keyed uint64            // of the last record with a key; 0 without one
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

// newest is the segment that is written.
func (w *wal) newest() *segment { return w.segments[len(w.segments)-1] }

// disposable reports whether no segment holds a change that its file lacks.
func (w *wal) disposable(open map[string]*document) bool {
	for _, s := range w.segments {
		if len(s.unsaved(open)) > 0 {
			return false
		}
	}
	return true
}

// begin starts a segment whose first record will be first, in the spare file if
// that is large enough. It gets its name only once its header is on disk, so a
// segment is never found without one; up to then a failure, even of its sync,
// concerns a file that goes away again.
func (w *wal) begin(first uint64, alloc int64) (err error) {
	f := w.spare
	if f != nil && alloc <= w.limit {
		w.spare, alloc = nil, w.limit
	} else if f, err = w.blank(alloc); err != nil {
		return err
	}
	temp := f.Name()
	defer func() {
		if err != nil {
			f.Close()
			w.dir.remove(temp)
		}
	}()
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
	w.f, w.epoch, w.used, w.alloc, w.prepared = f, epoch, segmentHeader, alloc, false
	w.segments = append(w.segments, s)
	w.bytes.Add(alloc)
	return nil
}

// empty replaces all segments by one without records. Their files are still to be
// buried.
func (w *wal) empty(next uint64) error {
	if w.used == segmentHeader && len(w.segments) == 1 {
		return nil
	}
	w.dropSpare()
	if err := w.begin(next, 4096); err != nil {
		return err
	}
	for len(w.segments) > 1 {
		w.condemn()
	}
	return nil
}

// blank makes a file of zeros without a name of its own yet.
func (w *wal) blank(size int64) (*os.File, error) {
	f, err := w.dir.temp()
	if err != nil {
		return nil, err
	}
	if err := preallocate(f, 0, size); err != nil {
		f.Close()
		w.dir.remove(f.Name())
		return nil, err
	}
	return f, nil
}

// prepareSpare makes a spare file while the log goes on, so that a segment's end costs
// its writers two syncs instead of as many as it has grown by, and zeros. Where it
// fails the next segment grows as the first one did.
func (e *Engine) prepareSpare() {
	f, err := e.wal.blank(e.wal.limit)
	if err == nil {
		err = syncData(f)
	}
	e.exclusively(func() {
		w := e.wal
		if err == nil && w.spare == nil && w.used > segmentHeader {
			w.spare = f
		} else if f != nil {
			f.Close()
			w.dir.remove(f.Name())
		}
	})
}

// due reports whether it is time to prepare the segment after this one: quite a
// lot was written lately, and half of this one is used.
func (w *wal) due() bool {
	return !w.prepared && w.alloc >= w.limit/32 && w.used > w.alloc/2
}

// dropSpare removes the spare file, if there is one.
func (w *wal) dropSpare() {
	if w.spare != nil {
		w.spare.Close()
		w.dir.remove(w.spare.Name())
		w.spare = nil
	}
}

// condemn takes the oldest segment out of the log; bury removes its file.
func (w *wal) condemn() {
	w.condemned = append(w.condemned, w.oldest())
	w.segments = w.segments[1:]
}

// bury removes the files of condemned segments. It needs no hold of the log, for
// to free a large file's blocks takes milliseconds. The oldest goes first, always:
// a segment that is missing between others is damage.
func (w *wal) bury() error {
	for len(w.condemned) > 0 {
		s := w.condemned[0]
		if err := w.dir.remove(s.name()); err != nil {
			return fmt.Errorf("remove log segment %s, which is not needed any more: %w", s.name(), err)
		}
		w.condemned = w.condemned[1:]
		w.bytes.Add(-s.size)
	}
	return nil
}

// preallocate makes f to bytes long, zeros from from on. They are written, not
// only reserved: the sync of a record in a block that was never written has the
// file's metadata to write too, which takes half as long again.
func preallocate(f *os.File, from, to int64) error {
	if err := allocate(f, from, to); err != nil {
		return err
	}
	const step = 1 << 20 // of the write back
	zeros := make([]byte, min(to-from, 256<<10))
	for before, begun := from, from; from < to; {
		n, err := f.WriteAt(zeros[:min(to-from, int64(len(zeros)))], from)
		if err != nil {
			return err
		}
		if from += int64(n); from-begun >= step {
			if err := pace(f, before, begun, from); err != nil {
				return err
			}
			before, begun = begun, from
		}
	}
	return nil
}
