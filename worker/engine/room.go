package engine

import (
	"errors"
	"fmt"
)

// A change is ordered only once the log has room for its record. So a disk that
// is full refuses a change before anything was changed, in memory or in the log:
// there is nothing to take back, reads go on, and writes do as soon as there is
// room again. The room is bytes of the last segment that are allocated, written
// with zeros and synced; it is promised to records that are not written yet.

// keptRoom is what a segment keeps free at its end: the zeros that end it, and a
// mark, which nobody claims room for.
const keptRoom = 2*frameHeader + 1

// recordSize is at least what the record of a change, intent or base takes in
// the log, with a base before it and n bytes of text.
func recordSize(document string, n int) int64 {
	return int64(frameHeader + 2*(2+len(document)) + 33 + 18 + 10 + n)
}

// unsynced is a failed sync of the log: nobody knows what the disk holds.
type unsynced struct{ error }

func (e unsynced) Unwrap() error { return e.error }

// harmless reports whether the log is as it was before err.
func harmless(err error) bool {
	var bad unsynced
	return IsFull(err) && !errors.As(err, &bad) && !errors.Is(err, ErrFailed)
}

// errNoRoom says that the log must be extended first.
var errNoRoom = errors.New("the log has no room")

// claimLocked promises the log's next n bytes to records that the caller is
// about to submit, if the log has them.
func (e *Engine) claimLocked(n int64) bool {
	if e.promised+n > e.free {
		return false
	}
	e.promised += n
	return true
}

// claim is claimLocked that makes room. Its error is that of [Engine.extend].
func (e *Engine) claim(n int64) error {
	for {
		e.mu.Lock()
		ok := e.claimLocked(n)
		e.mu.Unlock()
		if ok {
			return nil
		}
		if err := e.extend(n); err != nil {
			return err
		}
	}
}

// unclaim gives back room that no record was submitted for.
func (e *Engine) unclaim(n int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.promised -= n
}

// extend makes room in the log for n bytes more than are promised, in a new
// segment where the last one is full. The error is harmless, or that of usable.
func (e *Engine) extend(n int64) (err error) {
	e.exclusively(func() { err = e.extendCommitting(n) })
	return err
}

func (e *Engine) extendCommitting(n int64) error {
	e.mu.Lock()
	n += e.promised
	if err := e.usable(); err != nil || n <= e.free {
		e.mu.Unlock()
		return err
	}
	e.free = 0 // whoever claims meanwhile waits for what comes of this
	e.mu.Unlock()
	err := e.wal.grow(n)
	if err != nil && !harmless(err) {
		e.fail(err)
		err = e.Err()
	}
	e.mu.Lock()
	e.free = e.wal.room()
	e.mu.Unlock()
	return err
}

// room returns how many bytes of records fit into the last segment.
func (w *wal) room() int64 { return w.alloc - w.used - keptRoom }

// grow makes the room n bytes at least. Where the error is harmless nothing was
// changed but for zeros after the last segment's end.
func (w *wal) grow(n int64) error {
	if w.used > segmentHeader && (w.used+n > w.limit || w.spare != nil) {
		if err := w.begin(w.durable+1, enough(firstAlloc, segmentHeader+n+keptRoom)); err != nil {
			return fmt.Errorf("start a log segment: %w", err)
		}
		w.rotated = true
		return nil
	}
	if err := w.reserve(w.used + n + keptRoom); err != nil {
		return fmt.Errorf("extend log segment %s: %w", w.newest().name(), err)
	}
	return nil
}

// enough returns how long a segment of alloc bytes should become to hold size.
func enough(alloc, size int64) int64 {
	for alloc < size {
		alloc = min(2*alloc, alloc+growBy)
	}
	return alloc
}
