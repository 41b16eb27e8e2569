package engine

import (
	"context"
	"fmt"
	"io"
	"math"

	"github.com/zeebo/xxh3"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// Replace makes all of body the document, or changes nothing. A body that is no
// phext is a *phext.TextError. Readers and writers go on until the new file is
// complete. quota is the tenant's, in bytes, 0 for none.
func (e *Engine) Replace(ctx context.Context, document string, body io.Reader, quota int64) (Result, error) {
	return e.replaceWhole(ctx, document, body, quota, nil)
}

func (e *Engine) replaceWhole(ctx context.Context, document string, body io.Reader, quota int64, key *keyed) (Result, error) {
	d, err := e.find(document, true)
	if err != nil {
		return Result{}, err
	}
	defer d.unpin()
	t, err := e.receive(ctx, d, body, quota)
	if err != nil {
		return Result{}, err
	}
	defer t.close()
	b, err := t.base(0)
	if err != nil {
		return Result{}, err
	}
	if err := guard(func() error { return b.parse(e.opts.layout) }); err != nil {
		b.release()
		return Result{}, err
	}
	if key != nil {
		key.request = fingerprint(wholeReplace, document, phext.Coordinate{}, b.record.hash)
		key.bytes = t.size
	}
	seq, err := e.replace(d, t, b, quota, key)
	if err != nil {
		return Result{}, err
	}
	return Result{Bytes: t.size, Seq: seq}, nil
}

// receive writes body to a temporary file, at most as much as the quota leaves.
func (e *Engine) receive(ctx context.Context, d *document, body io.Reader, quota int64) (*tempFile, error) {
	f, err := e.control.temp()
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	t := &tempFile{dir: e.control, f: f}
	err = func() error {
		limited := &io.LimitedReader{R: body, N: math.MaxInt64}
		if quota > 0 {
			limited.N = e.room(d, quota) + 1
		}
		if t.size, err = io.Copy(&hashingWriter{f: f, h: xxh3.New()}, limited); err != nil {
			return fmt.Errorf("receive the document: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if limited.N == 0 {
			// Even if room was made meanwhile: the rest of the body is not here.
			e.mu.Lock()
			defer e.mu.Unlock()
			return &QuotaError{Used: e.total, Quota: quota, Need: t.size - d.now.size}
		}
		return syncData(f)
	}()
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// room returns how long the document may be: what the others leave of the
// quota, and never less than it is.
func (e *Engine) room(d *document, quota int64) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return max(quota-e.total+d.now.size, d.now.size)
}

// allow says whether the quota leaves room for the document to be size bytes
// long. The caller holds mu.
func (e *Engine) allow(d *document, size, quota int64) error {
	if grow := size - d.now.size; quota > 0 && grow > 0 && e.total+grow > quota {
		return &QuotaError{Used: e.total, Quota: quota, Need: grow}
	}
	return nil
}

// replace takes over the caller's reference to b.
func (e *Engine) replace(d *document, t *tempFile, b *base, quota int64, key *keyed) (seq uint64, err error) {
	d.io.Lock()
	defer d.io.Unlock()
	d.gate.Lock()
	defer d.gate.Unlock()
	return e.swap(d, b, quota, key, func() error {
		if err := e.control.rename(t.name(), e.dir, d.file()); err != nil {
			return fmt.Errorf("rename the new file: %w", err)
		}
		t.renamed = true
		return e.syncFolder(e.dir)
	})
}

// swap makes b the document in place of whatever it was: it announces b in the
// log, calls install to change the directory, and publishes b. The caller keeps
// writers out and holds the io lock; its reference to b is taken over. A key, if
// there is one, is in the log with the intent, and holds with the base.
func (e *Engine) swap(d *document, b *base, quota int64, key *keyed, install func() error) (seq uint64, err error) {
	e.unsettle(key, 1)
	defer e.unsettle(key, -1)
	if err = e.settle(d); err == nil {
		err = e.swapFile(d, b, quota, key, install)
	}
	if err != nil {
		b.release()
		return 0, err
	}
	e.mu.Lock()
	d.now.release()
	d.now = newContent(b)
	e.clean(d)
	seq = b.record.seq
	done, err := e.submit(d, opBase, b.record)
	if err == nil {
		done.attach(key, true)
	}
	e.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return seq, done.wait()
}

// swapFile changes the directory, and the tenant's total with it.
func (e *Engine) swapFile(d *document, b *base, quota int64, key *keyed, install func() error) error {
	e.mu.Lock()
	err := e.allow(d, int64(len(b.data)), quota)
	switch {
	case d.orphan != nil:
		err = ErrChanged
	case e.closing:
		err = ErrClosed
	}
	if err != nil {
		e.mu.Unlock()
		return err
	}
	// The new size counts from here on, so that no other write takes its place.
	grow := int64(len(b.data)) - d.now.size
	e.total += grow
	warn := e.watchQuotaLocked(quota, e.total-grow)
	e.mu.Unlock()
	warn()

	announced := false
	if err = e.announce(d, &b.record, true, key); err == nil {
		announced = true
		err = install()
	}
	if err == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.total -= grow
	if announced && e.err == nil {
		// Take the announcement back, or recovery would leave out the changes
		// before it should the present file happen to equal the new one.
		e.promised -= key.size()
		if _, err := e.submit(d, opBase, d.now.base.record); err != nil {
			return err
		}
	}
	return err
}

// Remove moves the document's file to the data directory's .trash folder, as
// DOCUMENT-TIME.phext. The error is [ErrNotFound] where there is none.
func (e *Engine) Remove(ctx context.Context, document string) (Result, error) {
	return e.remove(ctx, document, nil)
}

func (e *Engine) remove(ctx context.Context, document string, key *keyed) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	d, err := e.find(document, false)
	if err != nil {
		return Result{}, err
	}
	if d == nil {
		return Result{}, ErrNotFound
	}
	defer d.unpin()
	d.io.Lock()
	defer d.io.Unlock()
	d.gate.Lock()
	defer d.gate.Unlock()
	if !d.now.exists() {
		return Result{}, ErrNotFound
	}
	if d.orphan != nil {
		return Result{}, ErrChanged
	}
	// What goes to the trash is the document as it is now.
	if err := e.checkpointLocked(d); err != nil {
		return Result{}, err
	}
	trash, err := e.dir.sub(trashFolder, e.syncFolder)
	if err != nil {
		return Result{}, err
	}
	defer trash.f.Close()
	name, err := e.freeName(trash, d.name, "-")
	if err != nil {
		return Result{}, err
	}
	size := d.now.size
	if key != nil {
		key.bytes = size
	}
	seq, err := e.swap(d, absent(0), 0, key, func() error {
		if err := e.dir.rename(d.file(), trash, name+wire.DocumentExt); err != nil {
			return fmt.Errorf("move the file to the trash: %w", err)
		}
		if err := e.syncFolder(trash); err != nil {
			return err
		}
		return e.syncFolder(e.dir)
	})
	return Result{Bytes: size, Seq: seq}, err
}
