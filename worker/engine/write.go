package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/phext"
)

// Result is what a write did.
type Result struct {
	Bytes int64  // appended, stored or removed
	Seq   uint64 // of this change in the tenant's log; of the document's last one where nothing changed

	// Checksum is the xxh3-128 of the scroll as the change left it, as 32 hex
	// digits; empty where there is no scroll, and after changes of whole documents.
	Checksum string

	Replayed bool // it is the result of the write that was made before; see [Engine.Once]
}

// Append adds text to the scroll at a place. The text is the caller's to check:
// UTF-8 without break bytes. quota is the tenant's, in bytes, 0 for none. ctx ends
// the wait for memory, not that for the disk: a write once begun is seen through.
// A write without effect returns when what it depends on is durable.
func (e *Engine) Append(ctx context.Context, document string, at phext.Coordinate, text []byte, quota int64) (Result, error) {
	return e.mutate(ctx, document, change{opAppend, at, text, quota}, nil)
}

// Put makes text the scroll at a place; empty text empties it. See [Engine.Append].
func (e *Engine) Put(ctx context.Context, document string, at phext.Coordinate, text []byte, quota int64) (Result, error) {
	return e.mutate(ctx, document, change{opPut, at, text, quota}, nil)
}

// Delete empties the scroll at a place. See [Engine.Append].
func (e *Engine) Delete(ctx context.Context, document string, at phext.Coordinate) (Result, error) {
	return e.mutate(ctx, document, change{kind: opDelete, at: at}, nil)
}

// change is a write as asked for.
type change struct {
	kind  opKind
	at    phext.Coordinate
	text  []byte
	quota int64
}

// write is a change on its way. It is ordered by whoever commits the batch that it
// joined.
type write struct {
	change
	doc     *document
	key     *keyed // nil without one
	ordered bool
	result  Result
	err     error  // why it was not made
	scroll  []byte // that it leads to, valid until space is released
	space   room
}

func (e *Engine) mutate(ctx context.Context, document string, ch change, key *keyed) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	if len(ch.text) > maxText {
		return Result{}, fmt.Errorf("text has %d bytes: at most %d are allowed", len(ch.text), maxText)
	}
	// Where there is no document, a write of nothing must not make one.
	d, err := e.find(document, len(ch.text) > 0)
	if err == nil && d == nil && key != nil {
		err = e.logKey(key)
	}
	if err != nil || d == nil {
		return Result{}, err
	}
	defer d.unpin()
	if ch.kind == opPut {
		ch.text = bytes.Clone(ch.text) // it stays
	}
	w := &write{change: ch, doc: d, key: key}
	defer w.space.release()
	if err := e.makeWhenFree(ctx, w); err != nil {
		return Result{}, err
	}
	return w.answer()
}

// size is at least what the write's record takes in the log.
func (w *write) size() int64 { return recordSize(w.doc.name, len(w.text)) + w.key.size() }

// answer is the result of a write that was made.
func (w *write) answer() (Result, error) {
	if len(w.scroll) == 0 {
		return w.result, nil
	}
	err := guard(func() error { // it may be in the file
		w.result.Checksum = phext.Checksum(w.scroll)
		return nil
	})
	return w.result, err
}

// makeWhenFree is make that waits for memory, holding no lock.
func (e *Engine) makeWhenFree(ctx context.Context, w *write) error {
	for {
		err := e.make(w)
		if err == nil {
			return nil
		}
		var full *fullError
		if !errors.As(err, &full) {
			return err
		}
		select {
		case <-full.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// make has a write ordered and waits until it is durable.
func (e *Engine) make(w *write) error {
	d := w.doc
	d.gate.RLock()
	err := e.attempt(w)
	d.gate.RUnlock()
	if !errors.Is(err, ErrChanged) {
		return err
	}
	// A checkpoint that has just renamed its file looks like an edit: look
	// again when none is under way.
	d.io.Lock()
	defer d.io.Unlock()
	d.gate.RLock()
	defer d.gate.RUnlock()
	return e.attempt(w)
}

// attempt has a write ordered once. The caller shares the gate: whoever holds it
// alone finds every write before him durable.
func (e *Engine) attempt(w *write) error {
	w.ordered = false
	for !w.ordered {
		b := e.join(w)
		e.hasten()
		if err := b.wait(); w.ordered && w.err == nil {
			return err
		}
	}
	return w.err
}

// order makes a write in memory, and puts its record into the pending batch.
func (e *Engine) order(w *write) {
	w.ordered = true
	w.err = guard(func() error { return e.orderGuarded(w) })
	if w.key != nil && w.err == nil && len(w.scroll) > 0 && w.key.checksum == [16]byte{} {
		w.key.seal(w.scroll)
	}
}

func (e *Engine) orderGuarded(w *write) (err error) {
	warn := func() {}
	defer func() { warn() }()
	d := w.doc
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.admitLocked(d); err != nil {
		return err
	}
	if w.kind == opAppend && !w.space.fits(d.now.get(w.at), len(w.text)) {
		w.space.pin(d.now, w.at)
		e.unlocked(func() { w.space.fill(len(w.text)) })
	}
	before := e.total
	err = e.applyLocked(w)
	if err == errNoRoom {
		if e.unlocked(func() { err = e.extendCommitting(w.size()) }); err == nil {
			err = e.applyLocked(w)
		}
	}
	if err == nil {
		warn = e.watchQuotaLocked(w.quota, before)
	}
	return err
}

// admitLocked says why the document takes no change now. It looks at the
// document's file before the first change of each batch, so that no batch is
// logged over a file that was edited before the batch was begun; it gives up mu
// meanwhile.
func (e *Engine) admitLocked(d *document) (err error) {
	same := d.orphan == nil
	if d.last != e.pending {
		e.unlocked(func() { same, err = e.unedited(d) })
	}
	switch {
	case err != nil:
		return e.documentError(d.name, err)
	case e.err != nil:
		return e.err
	case e.closing:
		return ErrClosed
	case !same:
		return ErrChanged
	}
	return nil
}

// unlocked calls fn without mu, which the caller holds before and after.
func (e *Engine) unlocked(fn func()) {
	e.mu.Unlock()
	defer e.mu.Lock()
	fn()
}

// watchQuotaLocked is called after each change that may have made the total grow
// from before. What it returns logs a warning where that passed 90 % of the quota,
// or is the first change to find it passed; call it without the lock.
func (e *Engine) watchQuotaLocked(quota, before int64) (warn func()) {
	total, most := e.total, quota/10*9
	if quota == 0 || total <= most || e.warned && before > most {
		return func() {}
	}
	e.warned = true
	return func() {
		e.log.Warn("90 % of the quota is used", zap.Int64("used_bytes", total), zap.Int64("quota_bytes", quota))
	}
}

// unedited reports whether the document's file is the one the engine opened, or
// one that a checkpoint has just put in its place.
func (e *Engine) unedited(d *document) (bool, error) {
	id, err := e.dir.stat(d.file())
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ours := id == d.now.base.id || d.next.exists && id == d.next
	return ours && d.orphan == nil, nil
}

func (e *Engine) applyLocked(w *write) error {
	o, changed, err := e.alterLocked(w, func(n int) error {
		if err := e.admitMemoryLocked(n); err != nil {
			return err
		}
		if !e.claimLocked(w.size()) {
			return errNoRoom
		}
		return nil
	})
	if changed {
		e.add(w.doc, o, w.size()-w.key.size())
		e.logged(w)
	}
	if err == nil && w.key != nil {
		err = e.keepLocked(w, changed)
	}
	return err
}

// alterLocked makes a change in memory and returns what the log must hold of it.
// admit is asked before, with the length that the scroll will have.
func (e *Engine) alterLocked(w *write, admit func(n int) error) (o op, changed bool, err error) {
	d, ch := w.doc, &w.change
	c := d.now
	old := c.getToSet(ch.at)
	n := len(ch.text)
	r := Result{Bytes: int64(n), Seq: c.seq}
	switch ch.kind {
	case opAppend:
		n += len(old)
	case opDelete:
		r.Bytes = int64(len(old))
	}
	if n == len(old) && (n == 0 || ch.kind == opAppend) {
		w.space.pin(c, ch.at) // it may be in the file
		w.result, w.scroll = r, old
		return o, false, nil
	}
	size := c.sizeWith(ch.at, len(old), n)
	if grow := size - c.size; ch.quota > 0 && grow > 0 && e.total+grow > ch.quota {
		return o, false, &QuotaError{Used: e.total, Quota: ch.quota, Need: grow}
	}
	if err := admit(n); err != nil {
		return o, false, err
	}
	o = op{kind: ch.kind, document: d.name, at: ch.at}
	var text []byte
	switch {
	case n == 0:
		o.kind = opDelete
	case ch.kind == opAppend:
		text = extended(old, ch.text, w.space)
		o.text = text[len(old):]
	default:
		text = ch.text
		o.text = text
	}
	e.total += size - c.size
	c.set(ch.at, text, size)
	c.time = e.pending.now()
	if d.touched != nil {
		d.touched[ch.at] = struct{}{}
	}
	w.result, w.scroll = r, text
	return o, true, nil
}

// logged notes that a change is in the log, with the newest sequence, and not in
// the document's file. The caller holds mu.
func (e *Engine) logged(w *write) {
	w.doc.now.seq, w.result.Seq = e.seq, e.seq
	e.soil(w.doc, int64(len(w.text)))
}

// soil notes that a document has a change of n bytes that its file lacks. The
// caller holds mu.
func (e *Engine) soil(d *document, n int64) {
	const overhead = 64       // of a record, about
	const often = time.Second // between the files of a document under many writes
	d.logged += n + overhead
	d.wrote = d.now.time
	_, was := e.dirty[d]
	e.dirty[d] = struct{}{}
	e.account(d)
	due := !d.urgent && d.logged > max(1<<20, d.now.size/4) && d.wrote.Sub(d.now.base.modified()) > often
	d.urgent = d.urgent || due
	if !was || due {
		notify(e.kick)
	}
}

// notify wakes the one goroutine that receives from ch.
func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
