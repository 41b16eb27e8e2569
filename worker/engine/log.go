package engine

import (
	"fmt"
	"os"
	"sync/atomic"

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
	limit    int64      // bytes that a segment should not exceed
	f        *os.File   // the last segment
	epoch    [8]byte
	used     int64    // bytes of the last segment that hold records
	alloc    int64    // bytes of it that are allocated
	durable  uint64   // the last sequence known to be synced
	lastMark uint64   // sequence of the last mark
	spare    *os.File // a blank file of limit bytes for the next segment, or nil
	prepared bool     // one was begun, at least, since the last segment was
	buf      []byte
	ops      []op         // of the record that is being written
	rotated  bool         // since the last look for segments to delete
	bytes    atomic.Int64 // of all segments on disk

	// condemned are segments whose files are to be removed, oldest first: the
	// committer's alone while it runs.
	condemned []*segment
}

// write makes a batch durable, for whose records there is room.
func (w *wal) write(b *batch) error {
	current := w.newest()
	w.buf = w.buf[:0]
	for _, r := range b.records {
		w.ops = w.ops[:0]
		put := func(d *document, o op) {
			switch o.kind {
			case opBase:
				d.segment = current.first
			case opAppend, opPut, opDelete:
				if d.segment != current.first {
					// What a document's changes in a segment lie on stands
					// before them, so that older segments can go.
					w.ops = append(w.ops, op{kind: opBase, document: d.name, file: b.base(d)})
					d.segment = current.first
				}
				current.last[d.name] = r.seq
			case opKey:
				current.keyed = r.seq
			}
			w.ops = append(w.ops, o)
		}
		put(r.doc, r.op)
		for _, m := range r.more {
			put(m.doc, m.op)
		}
		w.buf = appendFrame(w.buf, w.epoch, r.seq, w.durable, w.ops...)
	}
	clear(w.ops)
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
	if _, err := w.f.WriteAt(w.buf, w.used); err != nil {
		return fmt.Errorf("write log segment %s: %w", w.newest().name(), err)
	}
	if err := syncData(w.f); err != nil {
		return fmt.Errorf("sync log segment %s: %w", w.newest().name(), err)
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
	w.newest().size = alloc
	w.alloc = alloc
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
	w.dropSpare()
}
