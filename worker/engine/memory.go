package engine

import (
	"cmp"
	"errors"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"
)

// What the memory of documents is reckoned at, in bytes, above their texts and
// indexes: measured, and rounded up.
const (
	documentCost = 2 << 10 // of an open document
	entryCost    = 128     // of a changed scroll
	gapCost      = 48      // of a range of scrolls that were deleted or changed
	touchedCost  = 64      // of a change while a checkpoint runs
)

// memory keeps account of what the open documents hold, guarded by the engine's
// mu. Documents that wait for a person, since somebody edited their files, are
// left out: nothing can be done about them.
type memory struct {
	held  int64         // by all open documents
	stuck int64         // by those of them with changes that their files lack
	clock atomic.Uint64 // advances when a document is opened
	short int64         // the most that a writer waits for; 0 without one

	freed chan struct{} // closed once less is held; nil where nobody waits
}

// errStuck means that writers would wait in vain.
var errStuck = errors.New("too many changes wait in memory for checkpoints, which fail")

// fullError says that a change must wait.
type fullError struct{ freed <-chan struct{} }

func (*fullError) Error() string { return "the memory for changes is used up" }

func (e entry) bytes() int64 { return entryCost + int64(cap(e.text)) }

// bytes returns how much memory a file takes.
func (b *base) bytes() int64 {
	n := b.index.bytes()
	if !b.mapped {
		n += int64(len(b.data))
	}
	return n
}

// bytes returns how much memory the document takes. The caller holds mu.
func (d *document) bytes() int64 {
	if d.now == nil || d.orphan != nil || d.edited {
		return 0
	}
	return documentCost + d.now.base.bytes() + d.now.held +
		int64(d.now.gaps.Len())*gapCost + int64(len(d.touched))*touchedCost
}

// account brings the sums up to date after a document has changed. The caller
// holds mu.
func (e *Engine) account(d *document) {
	held, stuck := d.bytes(), int64(0)
	if _, dirty := e.dirty[d]; dirty {
		stuck = held
	}
	e.memory.held += held - d.held
	e.memory.stuck += stuck - d.stuck
	less := held < d.held || stuck < d.stuck
	d.held, d.stuck = held, stuck
	if less {
		e.memory.wakeLocked()
	}
	if e.memory.stuck > e.opts.Memory/2 {
		notify(e.kick)
	}
}

// wakeLocked lets the writers that wait for memory look again.
func (m *memory) wakeLocked() {
	if m.freed != nil {
		close(m.freed)
		m.freed = nil
	}
}

// admitMemoryLocked says whether there is memory for a scroll of n bytes. The
// error is a *fullError where the caller, once it has let go of all locks, must
// wait and try again. A change that finds no others waiting for a checkpoint is
// always admitted: so is one that is larger than the budget.
func (e *Engine) admitMemoryLocked(n int) error {
	m := &e.memory
	// A scroll that grows has a quarter to spare.
	need := min(int64(n+n/4)+entryCost+gapCost, e.opts.Memory/2)
	if m.held+need <= e.opts.Memory {
		return nil
	}
	e.closeUnusedLocked(need)
	if m.held+need <= e.opts.Memory || m.stuck == 0 {
		return nil
	}
	if len(e.relievable(time.Now())) == 0 {
		return errStuck
	}
	if m.freed == nil {
		m.freed = make(chan struct{})
	}
	m.short = max(m.short, need)
	notify(e.kick)
	return &fullError{m.freed}
}

// closeUnusedLocked closes documents whose files hold all their changes, the
// ones not used for longest first, until need bytes and some more are free.
func (e *Engine) closeUnusedLocked(need int64) {
	m, most := &e.memory, e.opts.Memory-e.opts.Memory/8-need
	if m.held <= most || m.held == m.stuck {
		return
	}
	var unused []*document
	for _, d := range e.docs {
		if e.closableLocked(d) {
			unused = append(unused, d)
		}
	}
	slices.SortFunc(unused, byUse)
	for _, d := range unused {
		if m.held <= most {
			break
		}
		e.closeDocumentLocked(d)
	}
}

func byUse(a, b *document) int { return cmp.Compare(a.used.Load(), b.used.Load()) }

// closableLocked reports whether the engine can do without a document: nobody
// is at work on it, and all that the log says of it is in its file.
func (e *Engine) closableLocked(d *document) bool {
	if _, dirty := e.dirty[d]; dirty || d.now == nil || d.orphan != nil || d.pins.Load() > 0 {
		return false
	}
	if d.last == nil {
		return true
	}
	select {
	case <-d.last.done:
		return true
	default:
		return false
	}
}

// closeDocumentLocked drops what the engine refers to. Views keep what they
// read. The next use makes a document of its own, which begins with a base
// record in the log: whatever its file is then, recovery knows it.
func (e *Engine) closeDocumentLocked(d *document) {
	if d.closed.Store(true); d.pins.Load() > 0 {
		d.closed.Store(false) // somebody was faster
		return
	}
	b := d.now.base
	if delete(e.counts, d.name); b.id.exists {
		e.sizes[d.name] = b.id.size
		e.counts[d.name] = counted{id: b.id, seq: d.now.seq, info: Info{
			Name: d.name, Bytes: b.id.size, Scrolls: d.now.count, Modified: b.modified()}}
	}
	delete(e.docs, d.name)
	e.opened.CompareAndDelete(d.name, d)
	d.now.release()
	d.state.Load().release()
	e.memory.held -= d.held
	d.held = 0
	e.memory.wakeLocked()
}

// relievable returns the documents of which a checkpoint would free memory: the
// largest first, and of similar ones the one not used for longest. The caller
// holds mu.
func (e *Engine) relievable(now time.Time) (docs []*document) {
	for d := range e.dirty {
		if d.stuck > 0 && !now.Before(d.retry) {
			docs = append(docs, d)
		}
	}
	// A checkpoint's syncs cost as much as writing 64 KiB, about.
	class := func(d *document) int { return bits.Len64(uint64(d.stuck >> 16)) }
	slices.SortFunc(docs, func(a, b *document) int { return cmp.Or(cmp.Compare(class(b), class(a)), byUse(a, b)) })
	return docs
}

// pressLocked makes checkpoints urgent, ahead of the time when writers would
// wait for them.
func (e *Engine) pressLocked(now time.Time) {
	m, budget := &e.memory, e.opts.Memory
	most := m.stuck
	if m.stuck > budget/2 {
		most = budget / 4
	}
	if m.short > 0 {
		most = min(most, budget-m.short-(m.held-m.stuck))
		m.short = 0
	}
	if m.stuck <= most {
		return
	}
	stuck := m.stuck
	for _, d := range e.relievable(now) {
		if stuck <= most {
			break
		}
		stuck -= d.stuck
		d.urgent = true
	}
}
