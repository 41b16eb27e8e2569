package engine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/zeebo/xxh3"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/phext"
)

// retryAfter is how long a checkpoint that failed is left alone.
const retryAfter = time.Minute

// checkpointLoop checkpoints documents in the background: at once when much has
// changed, else when nothing has for a while.
func (e *Engine) checkpointLoop() {
	timer := time.NewTimer(time.Hour)
	for {
		timer.Reset(e.checkpointDue())
		select {
		case <-e.quit:
			return
		case <-e.kick:
		case <-timer.C:
		}
	}
}

// checkpointDue writes the documents whose time has come and returns how long
// to wait for the next one.
func (e *Engine) checkpointDue() time.Duration {
	now, wait := time.Now(), time.Hour
	var due []*document
	e.mu.Lock()
	e.pressLocked(now)
	for d := range e.dirty {
		at := d.wrote.Add(e.idle(d))
		if d.urgent {
			at = now
		}
		if at.Before(d.retry) {
			at = d.retry
		}
		if at.After(now) {
			wait = min(wait, at.Sub(now))
		} else {
			due = append(due, d)
			d.pins.Add(1)
		}
	}
	e.mu.Unlock()
	defer func() {
		for _, d := range due {
			d.unpin()
		}
	}()
	slices.SortFunc(due, byUse)
	for _, d := range due {
		select {
		case <-e.quit:
			return wait
		default:
		}
		if err := e.checkpoint(d); err != nil && !errors.Is(err, ErrFailed) {
			e.log.Warn("checkpoint failed; the changes stay in the log", zap.String("document", d.name), zap.Error(err))
			e.mu.Lock()
			d.retry = time.Now().Add(retryAfter)
			d.edited = errors.Is(err, ErrChanged)
			e.account(d)
			e.memory.wakeLocked()
			e.mu.Unlock()
			wait = min(wait, retryAfter)
		}
	}
	return wait
}

// idle is how long a document must be left alone before it is checkpointed. A
// large one, which costs more to write, waits longer.
func (e *Engine) idle(d *document) time.Duration {
	const perSecond = 4 << 20
	return e.opts.idle + min(time.Duration(d.now.size/perSecond)*time.Second, time.Minute)
}

func (e *Engine) dirtyDocuments() (docs []*document) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for d := range e.dirty {
		docs = append(docs, d)
	}
	return docs
}

func (e *Engine) checkpoint(d *document) error {
	d.io.Lock()
	defer d.io.Unlock()
	return e.checkpointLocked(d)
}

// checkpointLocked writes the document's file anew. Writers go on meanwhile:
// what they change is carried over to the new file in memory. The caller holds
// the document's io lock.
func (e *Engine) checkpointLocked(d *document) error {
	start := time.Now()
	// What cannot be installed need not be written.
	if same, err := e.unedited(d); err != nil || !same {
		return cmp.Or(err, ErrChanged)
	}
	e.mu.Lock()
	if err := e.usable(); err != nil || !d.now.modified {
		e.mu.Unlock()
		return err
	}
	// The snapshot may hold changes that are not durable yet. They are before
	// the intent in the log, so they are by the time the file gets its name.
	snap := d.now.snapshot()
	d.touched = make(map[phext.Coordinate]struct{})
	logged := d.logged
	e.mu.Unlock()
	defer snap.release()
	defer func() {
		e.mu.Lock()
		d.touched = nil
		e.account(d)
		e.mu.Unlock()
	}()

	t, err := e.writeTemp(snap)
	if err != nil {
		return err
	}
	defer t.close()
	b, err := t.base(snap.seq)
	if err != nil {
		return err
	}
	c := newContent(b)
	e.follow(d, c)
	// Writers that find the new file in place go on, too.
	e.mu.Lock()
	d.next = b.id
	e.mu.Unlock()
	err = e.install(d, t, b.record)
	if err == nil {
		e.follow(d, c)
	}
	e.mu.Lock()
	if err != nil {
		d.next = identity{}
		e.mu.Unlock()
		c.release()
		return err
	}
	done, err := e.rebase(d, c, logged)
	e.mu.Unlock()
	if err == nil {
		err = done.wait()
	}
	if err == nil && e.opts.ObserveCheckpoint != nil {
		e.opts.ObserveCheckpoint(time.Since(start))
	}
	return err
}

// install gives a new file the document's name, having said so in the log. The
// caller holds the document's io lock.
func (e *Engine) install(d *document, t *tempFile, file fileRecord) error {
	if err := e.announce(d, &file, false, nil); err != nil {
		return err
	}
	if err := e.control.rename(t.name(), e.dir, d.file()); err != nil {
		e.unclaim(recordSize(d.name, 0))
		return fmt.Errorf("rename the new file: %w", err)
	}
	t.renamed = true
	return e.syncFolder(e.dir)
}

// announce logs and syncs the intent to make file the document's, unless a
// person has changed the present one, and leaves a claim for the base record
// that must follow. With own, the intent's own record counts as the last change
// that the file holds, and file.seq becomes its sequence; so does the key's, for
// which there is a claim with the base's, too.
func (e *Engine) announce(d *document, file *fileRecord, own bool, key *keyed) error {
	id, err := e.dir.stat(d.file())
	if err != nil {
		return fmt.Errorf("look at the present file: %w", err)
	}
	claimed := 2 * (recordSize(d.name, 0) + key.size())
	if err := e.claim(claimed); err != nil {
		return err
	}
	e.mu.Lock()
	if id != d.now.base.id {
		e.promised -= claimed
		e.mu.Unlock()
		return ErrChanged
	}
	if own {
		file.seq = e.seq + 1
	}
	if key != nil {
		key.seq = file.seq
	}
	done, err := e.submit(d, opIntent, *file)
	if err == nil {
		done.attach(key, false)
	}
	e.mu.Unlock()
	if err != nil {
		return err
	}
	return done.wait()
}

// syncFolder makes a rename durable. If that fails nobody knows which file a
// crash would leave, so it is as bad as a failed sync of the log.
func (e *Engine) syncFolder(dir directory) error {
	if err := dir.sync(); err != nil {
		e.fail(fmt.Errorf("sync the data directory: %w", err))
		return e.Err()
	}
	return nil
}

// follow brings a new file's content up to the document's present state, but for
// a few changes, while writers go on.
func (e *Engine) follow(d *document, c *content) {
	const few = 256
	for {
		e.mu.Lock()
		if len(d.touched) <= few {
			e.mu.Unlock()
			return
		}
		now, touched := d.now.snapshot(), d.touched
		d.touched = make(map[phext.Coordinate]struct{})
		e.account(d)
		e.mu.Unlock()
		c.takeFrom(now, touched)
		now.release()
	}
}

// takeFrom makes the scrolls at some places what they are in another version of
// the document, where none of them is in the file as it is.
func (c *content) takeFrom(now *content, places map[phext.Coordinate]struct{}) {
	for at := range places {
		before, text := c.get(at), now.get(at)
		if len(before) > 0 || len(text) > 0 {
			c.set(at, text, c.sizeWith(at, len(before), len(text)))
		}
	}
}

// rebase makes c the document, with the last changes since the checkpoint's
// snapshot, and confirms its file in the log. The caller holds mu.
func (e *Engine) rebase(d *document, c *content, logged int64) (*batch, error) {
	old := d.now
	c.takeFrom(old, d.touched)
	c.seq, c.time = old.seq, old.time
	d.now = c
	d.next = identity{}
	old.release()
	rest := d.logged - logged
	d.urgent, d.edited, d.touched = false, false, nil
	if c.seq == c.base.record.seq {
		e.clean(d)
	} else {
		c.modified = true
		d.logged = rest
		e.account(d)
	}
	return e.submit(d, opBase, c.base.record)
}

// tempFile is a document's file before it has a name.
type tempFile struct {
	dir     directory
	f       *os.File
	index   index
	size    int64
	hash    [16]byte
	renamed bool
}

func (t *tempFile) name() string { return t.f.Name() }

// close removes the file, unless it was given a name.
func (t *tempFile) close() {
	t.f.Close()
	if !t.renamed {
		t.dir.remove(t.name())
	}
}

// base is the file as a document's, holding its changes up to seq.
func (t *tempFile) base(seq uint64) (*base, error) {
	id, err := identityOfFile(t.f)
	if err != nil {
		return nil, fmt.Errorf("look at the new file: %w", err)
	}
	b, err := loadBase(t.f, id)
	if err != nil {
		return nil, fmt.Errorf("open the new file: %w", err)
	}
	b.index, b.canonical = t.index, t.size
	b.record.seq, b.record.hash = seq, t.hash
	return b, nil
}

// writeTemp writes and syncs a document's canonical text.
func (e *Engine) writeTemp(c *content) (*tempFile, error) {
	f, err := e.control.temp()
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	t := &tempFile{dir: e.control, f: f}
	w := &hashingWriter{f: f, h: xxh3.New()}
	err = guard(func() (err error) {
		t.index = index{layout: e.opts.layout}
		t.size, err = c.writeTo(w, &t.index)
		t.index.trim()
		return err
	})
	if err == nil {
		err = syncData(f)
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("write the new file: %w", err)
	}
	t.hash = w.h.Sum128().Bytes()
	return t, nil
}

// hashingWriter writes a file and hashes it, and has the kernel write it back
// step by step.
type hashingWriter struct {
	f       *os.File
	h       *xxh3.Hasher
	written int64
	step    [2]int64 // where the last step of the write back began and ended
}

func (w *hashingWriter) Write(p []byte) (int, error) {
	const chunk = 1 << 20
	for done := 0; done < len(p); {
		part := p[done:min(done+chunk, len(p))]
		w.h.Write(part)
		n, err := w.f.Write(part)
		done += n
		w.written += int64(n)
		if end := w.step[1]; err == nil && w.written-end >= chunk {
			err = pace(w.f, w.step[0], end, w.written)
			w.step = [2]int64{end, w.written}
		}
		if err != nil {
			return done, err
		}
	}
	return len(p), nil
}
