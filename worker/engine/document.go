package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// document is one that was opened. Locks are taken in the order of the fields,
// and the engine's mu after them.
type document struct {
	name string

	io   sync.Mutex   // held by whoever reads or replaces the file
	gate sync.RWMutex // shared by writers; held to keep them out

	pins   atomic.Int32  // uses under way, which keep it open
	closed atomic.Bool   // the engine has dropped it; looked at once it is pinned
	used   atomic.Uint64 // the engine's clock at the last use

	// state is what readers see: the newest version that is durable. Whoever
	// commits replaces it, in the order of the log.
	state atomic.Pointer[content]

	// Guarded by io: why the file could not be opened, and which file it was.
	failure   error
	failureID identity

	// Guarded by the engine's mu.
	now     *content                      // with changes that are not durable yet
	last    *batch                        // that carries the newest change
	next    identity                      // of the file that a checkpoint under way installs
	touched map[phext.Coordinate]struct{} // since the checkpoint under way began; nil without one
	logged  int64                         // bytes of changes in the log since the last checkpoint
	wrote   time.Time                     // the last change, for the idle checkpoint
	urgent  bool                          // checkpoint as soon as possible
	retry   time.Time                     // not before this, after a checkpoint failed
	edited  bool                          // so that no checkpoint can be written
	loading bool                          // the log does not say yet which file it has now
	held    int64                         // bytes of memory that it is accounted with
	stuck   int64                         // of these, until a checkpoint is written

	// orphan holds changes found in the log whose file was edited or went away
	// before they could be applied to it. It is nil but in that case; until
	// [Engine.Reload] has saved it under another name, writes are refused.
	orphan *content

	segment uint64 // the last one with a base record; guarded by the engine's committing
}

func (d *document) unpin() { d.pins.Add(-1) }

// lacks reports whether the file may lack changes up to a sequence. The caller
// holds the engine's mu.
func (d *document) lacks(seq uint64) bool {
	return d.orphan != nil || d.loading || d.now != nil && d.now.base.record.seq < seq
}

func (d *document) file() string { return d.name + wire.DocumentExt }

// published returns the newest durable version with a reference to its base,
// or nil when the document was closed.
func (d *document) published() *content {
	for {
		c := d.state.Load()
		if c.base.acquire() {
			return c
		}
		if c == d.state.Load() {
			return nil
		}
		// A newer one was published in between.
	}
}

// publish takes over the caller's reference to c's base.
func (d *document) publish(c *content) {
	if old := d.state.Swap(c); old != nil {
		old.release()
	}
}

// close ends what the engine itself refers to. The engine is stopped, and the
// io lock waits for whoever still works on the document's file.
func (d *document) close() {
	d.io.Lock()
	defer d.io.Unlock()
	d.gate.Lock()
	defer d.gate.Unlock()
	if d.now != nil {
		d.now.release()
	}
	if c := d.state.Load(); c != nil {
		c.release()
	}
	if d.orphan != nil {
		d.orphan.release()
	}
}

// find returns an open document, which stays open until the caller unpins it.
// Without create, it returns nil where there is neither a file nor a change.
func (e *Engine) find(name string, create bool) (*document, error) {
	if err := wire.CheckDocument(name); err != nil {
		return nil, err
	}
	d, err := e.pin(name, false)
	if err == nil && d == nil && !create {
		var id identity
		if id, err = e.dir.stat(name + wire.DocumentExt); err != nil {
			return nil, e.documentError(name, err)
		}
		if !id.exists {
			return nil, nil
		}
	}
	if err == nil && d == nil {
		d, err = e.pin(name, true)
	}
	if err != nil {
		return nil, err
	}
	if err := e.prepare(d); err != nil {
		d.unpin()
		return nil, err
	}
	return d, nil
}

// pin returns the document of this name and keeps it from being closed. Without
// create, it returns nil where none is open.
func (e *Engine) pin(name string, create bool) (*document, error) {
	if d, ok := e.opened.Load(name); ok {
		d := d.(*document)
		d.pins.Add(1)
		if !d.closed.Load() { // nor will it be, now that it is pinned
			d.touch(&e.memory)
			return d, nil
		}
		d.unpin()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.docs[name]
	switch {
	case e.closing:
		return nil, ErrClosed
	case d == nil && !create:
		return nil, nil
	case d == nil:
		d = &document{name: name}
		e.enterLocked(d)
	}
	d.pins.Add(1)
	d.touch(&e.memory)
	return d, nil
}

func (e *Engine) enterLocked(d *document) {
	e.docs[d.name] = d
	e.opened.Store(d.name, d)
}

// touch notes that the document is in use.
func (d *document) touch(m *memory) {
	if now := m.clock.Load(); d.used.Load() != now {
		d.used.Store(now)
	}
}

// prepare makes sure that a document is open.
func (e *Engine) prepare(d *document) error {
	c := d.state.Load()
	if c == nil {
		return e.load(d)
	}
	if !c.exists() {
		// A file that a person places is served without being asked for,
		// since there is nothing that it could contradict.
		if id, err := e.dir.stat(d.file()); err == nil && id.exists {
			return e.reload(d)
		}
	}
	return nil
}

func (e *Engine) documentError(name string, err error) error {
	if errors.Is(err, os.ErrClosed) {
		return ErrClosed
	}
	return &DocumentError{name, err}
}

// load opens a document's file.
func (e *Engine) load(d *document) error {
	d.io.Lock()
	defer d.io.Unlock()
	if d.state.Load() != nil {
		return nil
	}
	id, err := e.dir.stat(d.file())
	if err != nil {
		return e.documentError(d.name, err)
	}
	if d.failure != nil && d.failureID == id && (lasting(d.failure) || d.orphan != nil) {
		return d.failure // scanned before and not changed since
	}
	b, err := openBase(e.dir, d.name, e.opts.layout)
	if d.failure, d.failureID = err, id; err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	known := e.counts[d.name]
	e.adopt(d, b)
	if known.seq > 0 && known.id == b.id {
		// It was open before, and is what it was when it was closed.
		b.record.seq, d.now.seq = known.seq, known.seq
	}
	d.publish(d.now.snapshot())
	d.used.Store(e.memory.clock.Add(1))
	if e.memory.held > e.opts.Memory {
		e.closeUnusedLocked(0)
	}
	return nil
}

// adopt makes a file the document, without changes. What the log holds of the
// document so far is not to be applied to it. The caller holds mu.
func (e *Engine) adopt(d *document, b *base) {
	b.record.seq = e.seq
	size := e.sizes[d.name]
	delete(e.sizes, d.name)
	if d.now != nil {
		size = d.now.size
		d.now.release()
	}
	d.now = newContent(b)
	e.total += d.now.size - size
	e.clean(d)
}

// clean notes that a document's file holds all its changes.
func (e *Engine) clean(d *document) {
	d.logged, d.urgent, d.edited, d.touched, d.retry = 0, false, false, nil, time.Time{}
	delete(e.dirty, d)
	e.account(d)
}

// Reload makes a file that was edited by hand the document. Changes that were
// not in the file yet are saved as a document NAME.conflict-TIME first. A file
// that was not edited changes nothing.
func (e *Engine) Reload(ctx context.Context, document string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := e.find(document, false)
	if err != nil || d == nil {
		return err
	}
	defer d.unpin()
	return e.reload(d)
}

func (e *Engine) reload(d *document) error {
	d.io.Lock()
	defer d.io.Unlock()
	d.gate.Lock()
	defer d.gate.Unlock()
	if err := e.settle(d); err != nil {
		return err
	}
	id, err := e.dir.stat(d.file())
	if err != nil {
		return e.documentError(d.name, err)
	}
	if id == d.now.base.id && d.orphan == nil {
		return nil
	}
	b, err := openBase(e.dir, d.name, e.opts.layout)
	if err != nil {
		return err
	}
	claimed := recordSize(d.name, 0)
	if err := e.claim(claimed); err != nil {
		b.release()
		return err
	}
	ours := d.orphan
	if d.now.modified {
		ours = d.now
	}
	if ours != nil {
		if err := e.saveConflict(d, ours); err != nil {
			e.unclaim(claimed)
			b.release()
			return fmt.Errorf("save the changes of document %q beside the edited file: %w", d.name, err)
		}
	}
	e.mu.Lock()
	e.adopt(d, b)
	if d.orphan != nil {
		d.orphan.release()
		d.orphan = nil
	}
	d.loading = true // a crash now finds the file edited, and all changes must be there
	done, err := e.submit(d, opBase, d.now.base.record)
	e.mu.Unlock()
	if err == nil {
		err = done.wait()
	}
	if err == nil {
		e.mu.Lock()
		d.loading = false
		e.mu.Unlock()
		notify(e.untidy)
	}
	return err
}

// settle waits until the document's newest change is durable. The caller keeps
// writers out.
func (e *Engine) settle(d *document) error {
	e.mu.Lock()
	last, err := d.last, e.usable()
	e.mu.Unlock()
	if err != nil || last == nil {
		return err
	}
	return last.wait()
}

// saveConflict writes c as a document of its own.
func (e *Engine) saveConflict(d *document, c *content) error {
	name, err := e.freeName(e.dir, d.name, ".conflict-")
	if err != nil {
		return err
	}
	t, err := e.writeTemp(c)
	if err != nil {
		return err
	}
	defer t.close()
	if err := e.control.rename(t.name(), e.dir, name+wire.DocumentExt); err != nil {
		return err
	}
	t.renamed = true
	if err := e.syncFolder(e.dir); err != nil {
		return err
	}
	e.mu.Lock()
	e.total += t.size - e.sizes[name] // a file of this name may have been removed by hand
	e.sizes[name] = t.size
	e.mu.Unlock()
	e.log.Warn("document was edited on disk before its last changes were in the file; they are kept in another document",
		zap.String("document", d.name), zap.String("kept", name))
	return nil
}

// freeName returns a document name made of name, infix and the time in UTC that
// has no file in dir, short enough to be a document's. A document that is open is
// one even if only the log knows it.
func (e *Engine) freeName(dir directory, name, infix string) (string, error) {
	suffix := infix + time.Now().UTC().Format("20060102T150405Z")
	for i := 1; ; i++ {
		free := suffix
		if i > 1 {
			free = fmt.Sprintf("%s-%d", suffix, i)
		}
		stem := name
		for len(stem)+len(free) > wire.MaxDocumentName || wire.CheckDocument(stem+free) != nil {
			if stem == "" {
				return "", fmt.Errorf("no free name for a copy of document %q", name)
			}
			stem = stem[:len(stem)-1]
		}
		id, err := dir.stat(stem + free + wire.DocumentExt)
		if err != nil {
			return "", err
		}
		e.mu.Lock()
		_, open := e.docs[stem+free]
		e.mu.Unlock()
		if !id.exists && !open {
			return stem + free, nil
		}
	}
}
