package engine

import (
	"fmt"
	"runtime"
	"slices"
	"time"
)

// quietAfter is how long the log must be idle before a mark says that its last
// batch was synced.
const quietAfter = 50 * time.Millisecond

// record is an operation with its place in the log, or several that hold together.
type record struct {
	seq  uint64
	doc  *document
	op   op
	more []operation
}

// operation is one of those behind the first in a record.
type operation struct {
	doc *document
	op  op
}

// batch is what one write and one sync make durable.
type batch struct {
	joined  []*write // not ordered yet; guarded by the engine's door
	writers int
	records []record
	claimed int64       // of the log's room, for them
	keys    []*keyed    // to remember once it is durable
	docs    []*document // to publish once it is durable
	states  []*content  // of docs, when the batch was taken
	begun   time.Time   // see now
	done    chan struct{}
	err     error // valid when done is closed
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// now is the time that the batch's changes bear: a look at the clock for each is
// a twentieth of what a write costs among many.
func (b *batch) now() time.Time {
	if b.begun.IsZero() {
		b.begun = time.Now().UTC()
	}
	return b.begun
}

func (b *batch) wait() error {
	<-b.done
	return b.err
}

// base describes the file that the batch's changes of d lie on.
func (b *batch) base(d *document) fileRecord {
	return b.states[slices.Index(b.docs, d)].base.record
}

// add gives an operation its sequence and its place in the pending batch, with
// the room in the log that was claimed for it. The caller holds mu; once it has
// released it, it must hasten or wake the committer.
func (e *Engine) add(d *document, o op, claimed int64) *batch {
	e.seq++
	b := e.pending
	b.records = append(b.records, record{seq: e.seq, doc: d, op: o})
	b.claim(d, claimed)
	return b
}

// claim notes that there is something of the document's in the batch.
func (b *batch) claim(d *document, claimed int64) {
	b.claimed += claimed
	if d.last != b {
		d.last = b
		b.docs = append(b.docs, d)
	}
}

// submit adds a base or intent record; it also publishes the document's present
// state once that is durable. The caller holds mu and has claimed
// recordSize(d.name, 0).
func (e *Engine) submit(d *document, kind opKind, file fileRecord) (*batch, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	b := e.add(d, op{kind: kind, document: d.name, file: file}, recordSize(d.name, 0))
	notify(e.wake)
	return b, nil
}

// usable says why the log takes no more records. The caller holds mu.
func (e *Engine) usable() error {
	switch {
	case e.err != nil:
		return e.err
	case e.stopped:
		return ErrClosed
	}
	return nil
}

// join puts a write into the pending batch.
func (e *Engine) join(w *write) *batch {
	e.door.Lock()
	defer e.door.Unlock()
	b := e.pending
	b.joined = append(b.joined, w)
	return b
}

// hasten has the pending batch committed: by the caller where nobody else commits,
// since waking another goroutine would cost a lone writer a good part of a sync.
func (e *Engine) hasten() {
	if e.committing.TryLock() { // else who holds it looks again once it is done
		defer e.committed()
		e.commit(e.take())
	}
}

// commitLoop commits what writers leave to it, and tidies the log.
func (e *Engine) commitLoop() {
	for {
		select {
		case <-e.wake:
			e.hasten()
		case <-e.quiet.C:
			e.exclusively(e.mark)
			e.bury()
		case <-e.untidy:
			e.exclusively(e.trim)
			e.bury()
		case <-e.drain:
			e.exclusively(func() {
				e.commit(e.take())
				e.mark()
			})
			return
		}
	}
}

// exclusively calls fn while nobody commits.
func (e *Engine) exclusively(fn func()) {
	e.committing.Lock()
	defer e.committed()
	fn()
}

// committed lets the next one commit; to be deferred. A fault of the program
// fails the engine, for others' writes are under way in whoever met it.
func (e *Engine) committed() {
	fault := recover()
	if fault != nil {
		e.fail(fmt.Errorf("commit: %v", fault))
	}
	e.committing.Unlock()
	if e.waiting() {
		notify(e.wake)
	}
	if fault != nil {
		panic(fault)
	}
}

// waiting reports whether there is anything to commit.
func (e *Engine) waiting() bool {
	e.door.Lock()
	defer e.door.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.pending.joined)+len(e.pending.records) > 0
}

// arrived takes the writes that have joined the pending batch.
func (e *Engine) arrived() []*write {
	e.door.Lock()
	defer e.door.Unlock()
	b := e.pending
	joined := b.joined
	b.joined = e.joined[:0]
	e.joined = joined
	b.writers += len(joined)
	return joined
}

// take orders the writes of the pending batch, ends it and notes the state it
// leads to; nil if there is nothing. It lets the writers that the last batch
// woke join, as long as they keep coming; one that is alone does not wait.
func (e *Engine) take() *batch {
	const patience = 20 // yields, of a fraction of a microsecond, for one more
	for idle := 0; ; {
		joined := e.arrived()
		for _, w := range joined {
			e.order(w)
		}
		clear(joined)
		if len(joined) > 0 {
			idle = 0
			continue
		}
		if e.pending.writers >= e.expected || idle == patience {
			break
		}
		idle++
		runtime.Gosched()
	}
	e.door.Lock()
	defer e.door.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.pending
	if len(b.records) == 0 && b.writers+len(b.joined) == 0 {
		return nil
	}
	e.pending = newBatch()
	e.pending.records, e.pending.joined = e.records, e.joined[:0]
	e.records, e.joined = nil, b.joined[:0]
	b.states = make([]*content, len(b.docs))
	for i, d := range b.docs {
		b.states[i] = d.now.snapshot()
	}
	return b
}

// commit writes and syncs a batch, publishes its documents and wakes its
// writers, in this order.
func (e *Engine) commit(b *batch) {
	if b == nil {
		return
	}
	err := e.Err()
	if err == nil && len(b.records) > 0 {
		start := time.Now()
		if err = e.wal.write(b); err != nil {
			e.fail(err)
			err = e.Err()
		} else if e.opts.ObserveSync != nil {
			e.opts.ObserveSync(time.Since(start))
		}
	}
	for i, d := range b.docs {
		if err == nil {
			d.publish(b.states[i])
		} else {
			b.states[i].release()
		}
	}
	e.mu.Lock()
	e.promised -= b.claimed
	e.free = e.wal.room()
	if err == nil {
		e.rememberLocked(b.keys)
	}
	e.mu.Unlock()
	b.err = err
	e.door.Lock()
	e.expected = len(e.pending.joined) + b.writers
	e.door.Unlock()
	close(b.done)
	e.quiet.Reset(quietAfter)
	tidy := err == nil && (e.wal.rotated || slices.ContainsFunc(b.records, func(r record) bool { return r.op.kind == opBase }))
	if tidy {
		e.wal.rotated = false
		notify(e.untidy)
	}
	if err == nil && e.wal.due() {
		e.wal.prepared = true
		e.committer.Go(e.prepareSpare)
	}
	clear(b.records)
	e.records = b.records[:0]
	// A document refers to its last batch for as long as it is open.
	b.joined, b.records, b.docs, b.states, b.keys = nil, nil, nil, nil, nil
}

// trim condemns segments that no document needs and whose keys are saved, and
// hurries the documents that keep the log from getting shorter.
func (e *Engine) trim() {
	const crowded = 4 * rotateAt // bytes of log
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.wal.segments) > 1 {
		unsaved := e.wal.oldest().unsaved(e.docs)
		if len(unsaved) == 0 && !e.keysSavedLocked(1) {
			e.saveKeysLocked()
			return
		}
		if len(unsaved) == 0 {
			e.wal.condemn()
			continue
		}
		if e.wal.bytes.Load() > crowded {
			for _, d := range unsaved {
				if !d.urgent {
					d.urgent = true
					notify(e.kick)
				}
			}
		}
		return
	}
}

// bury removes the files of condemned segments. What stays is tried again.
func (e *Engine) bury() {
	if err := e.wal.bury(); err != nil {
		e.log.Warn(err.Error())
	}
}

// mark says in the log that its last batch is durable, and starts a new segment
// where the old one is large and of no more use.
func (e *Engine) mark() {
	if e.Err() != nil || e.wal.marked() {
		return
	}
	e.mu.Lock()
	if len(e.pending.records) > 0 || e.wal.room() < 0 {
		e.mu.Unlock()
		return
	}
	e.seq++
	seq := e.seq
	disposable := e.promised == 0 && len(e.dirty) == 0 && e.wal.disposable(e.docs) && e.keysSavedLocked(len(e.wal.segments))
	e.free = 0 // nothing is promised of a segment that goes
	e.mu.Unlock()
	if disposable && e.wal.used > rotateAt/8 {
		if err := e.wal.empty(seq); err != nil && !harmless(err) {
			e.fail(fmt.Errorf("start a log segment: %w", err))
			return
		}
	}
	if err := e.wal.mark(seq); err != nil {
		e.fail(err)
	}
	e.mu.Lock()
	e.free = e.wal.room()
	e.mu.Unlock()
}
