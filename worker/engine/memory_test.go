package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// checkMemory compares the accounts with a recount. Nobody writes meanwhile.
func checkMemory(tb testing.TB, e *Engine) {
	tb.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	var held, stuck int64
	for name, d := range e.docs {
		if d.now == nil {
			continue
		}
		texts := int64(0)
		d.now.over.Scan(func(e entry) bool { texts += e.bytes(); return true })
		if texts != d.now.held {
			tb.Fatalf("document %s: changes are said to hold %d bytes, and hold %d", name, d.now.held, texts)
		}
		held += d.bytes()
		if _, dirty := e.dirty[d]; dirty {
			stuck += d.bytes()
		}
	}
	if held != e.memory.held || stuck != e.memory.stuck {
		tb.Fatalf("%d bytes are said to be held, %d of them for checkpoints; they are %d and %d", e.memory.held, e.memory.stuck, held, stuck)
	}
}

// closeAll closes every document that the engine can do without.
func closeAll(tb testing.TB, e *Engine) {
	tb.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range e.docs {
		if e.closableLocked(d) {
			e.closeDocumentLocked(d)
		}
	}
}

func isOpen(e *Engine, document string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.docs[document] != nil
}

// TestLeastRecentlyUsedIsClosed: the budget decides how many documents are open,
// and their use which.
func TestLeastRecentlyUsedIsClosed(t *testing.T) {
	const size, n = 100_000, 20
	dir := t.TempDir()
	for i := range n {
		MustWriteFile(t, dir, fmt.Sprintf("d%02d.phext", i), strings.Repeat("x", size))
	}
	opts := options(dir)
	opts.Memory = 10 * size
	e := MustOpenWith(t, opts)
	held := MustView(t, e, "d00") // its text stays although the document goes
	held.Close()
	held = MustView(t, e, "d00")
	for i := 1; i < n; i++ {
		MustView(t, e, fmt.Sprintf("d%02d", i)).Close()
		MustView(t, e, "d01").Close()
		checkMemory(t, e)
		if e.memory.held > opts.Memory {
			t.Fatalf("%d bytes are held with a budget of %d", e.memory.held, opts.Memory)
		}
	}
	if !isOpen(e, "d01") || !isOpen(e, "d19") || isOpen(e, "d00") || isOpen(e, "d02") {
		t.Errorf("open are %v", e.docs)
	}
	if n := len(e.docs); n < 5 || n > 9 {
		t.Errorf("%d documents are open, want some, and fewer than the budget's ten", n)
	}
	if got := held.Select(phext.Origin); len(got) != size {
		t.Errorf("a view of a closed document reads %d bytes", len(got))
	}
	stats, err := e.Stats()
	if err != nil || stats.StorageBytes != n*size || stats.Documents != n || stats.Scrolls != n {
		t.Errorf("%+v, %v", stats, err)
	}
}

// TestClosedDocumentIsWhatItWas: closing shows nowhere.
func TestClosedDocumentIsWhatItWas(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	MustPut(t, e, "a", origin, "text")
	MustPut(t, e, "b", origin, "other")
	MustCheckpoint(t, e, "a")
	before := MustView(t, e, "a")
	before.Close()
	stats, err := e.Stats()
	if err != nil {
		t.Fatal(err)
	}
	closeAll(t, e)
	if isOpen(e, "a") || !isOpen(e, "b") {
		t.Fatal("the wrong document was closed")
	}
	if again, err := e.Stats(); err != nil || again != stats {
		t.Errorf("stats are %+v (%v), and were %+v", again, err, stats)
	}
	if isOpen(e, "a") {
		t.Error("to count a document that was closed opened it")
	}
	after := MustView(t, e, "a")
	if after.Seq() != before.Seq() || after.Checksum() != before.Checksum() || string(after.Select(phext.Origin)) != "text" {
		t.Errorf("sequence %d and checksum %s, were %d and %s", after.Seq(), after.Checksum(), before.Seq(), before.Checksum())
	}
	after.Close()
	if _, err := e.Remove(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	gone := MustView(t, e, "a").Seq()
	closeAll(t, e)
	if v := MustView(t, e, "a"); v.Exists() || v.Seq() < gone {
		t.Errorf("a removed document has sequence %d after %d", v.Seq(), gone)
	}
	checkMemory(t, e)
}

// TestClosedThenCrash: a document is closed, its file perhaps edited by hand,
// opened again and written; then the worker crashes. Recovery must know which
// file the new changes lie on.
func TestClosedThenCrash(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(t *testing.T, path string)
		want string // the scroll, before the last change
	}{
		"untouched": {func(*testing.T, string) {}, "one two"},
		"edited": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("by hand"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "by hand"},
		"saved anew with the same text": {func(t *testing.T, path string) {
			if err := errors.Join(os.WriteFile(path+"~", []byte("one two"), 0o600), os.Rename(path+"~", path)); err != nil {
				t.Fatal(err)
			}
		}, "one two"},
		"an older version": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "one"},
		"removed": {func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, ""},
	} {
		for _, read := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, read %v", name, read), func(t *testing.T) {
				dir := t.TempDir()
				e := MustOpen(t, dir)
				MustAppend(t, e, "a", origin, "one")
				MustCheckpoint(t, e, "a")
				MustAppend(t, e, "a", origin, " two")
				MustCheckpoint(t, e, "a")
				last := MustAppend(t, e, "other", origin, "text")
				closeAll(t, e)
				if isOpen(e, "a") {
					t.Fatal("the document is open")
				}
				tc.edit(t, filepath.Join(dir, "a.phext"))
				expect := func(image, want string) {
					t.Helper()
					again := MustOpen(t, image)
					defer again.abort()
					if d := again.docs["a"]; d != nil && d.orphan != nil {
						t.Error("changes are set aside")
					}
					if got := selectText(t, again, "a", origin); got != want {
						t.Errorf("the scroll is %q after a crash, want %q", got, want)
					}
					if got := selectText(t, again, "other", origin); got != "text" {
						t.Errorf("the other document reads %q", got)
					}
					MustAppend(t, again, "a", origin, "!") // it takes changes
				}
				expect(CopyDir(t, dir), tc.want)
				if read {
					if got := selectText(t, e, "a", origin); got != tc.want {
						t.Errorf("the scroll is %q, want %q", got, tc.want)
					}
				}
				r := MustAppend(t, e, "a", origin, " three")
				if r.Seq <= last.Seq {
					t.Errorf("sequence %d after %d", r.Seq, last.Seq)
				}
				expect(CopyDir(t, dir), tc.want+" three")
				MustCheckpoint(t, e, "a")
				closeAll(t, e)
				MustAppend(t, e, "a", origin, " four")
				expect(CopyDir(t, dir), tc.want+" three four")
				checkMemory(t, e)
			})
		}
	}
}

// TestOldFilePutBackWhileClosed: what a document was when it was last closed is
// not believed once it has been another since.
func TestOldFilePutBackWhileClosed(t *testing.T) {
	dir := t.TempDir()
	file, kept := filepath.Join(dir, "a.phext"), filepath.Join(t.TempDir(), "kept")
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", origin, "old")
	MustCheckpoint(t, e, "a")
	closeAll(t, e)
	if err := os.Link(file, kept); err != nil {
		t.Fatal(err)
	}
	MustAppend(t, e, "a", origin, " new")
	MustCheckpoint(t, e, "a")
	closeAll(t, e)
	seq := MustView(t, e, "a").Seq()
	closeAll(t, e)
	if err := os.Rename(kept, file); err != nil {
		t.Fatal(err)
	}
	if v := MustView(t, e, "a"); string(v.Select(phext.Origin)) != "old" || v.Seq() < seq {
		t.Errorf("%q with sequence %d, want the old text and at least %d", v.Select(phext.Origin), v.Seq(), seq)
	}
	MustAppend(t, e, "a", origin, "!")
	e.abort()
	e = MustOpen(t, dir)
	if got := selectText(t, e, "a", origin); got != "old!" {
		t.Errorf("the scroll is %q after a crash, want what was served", got)
	}
}

// TestSegmentsOfClosedDocumentsGo: a document that was closed holds up no
// segment, and one that has changes does.
func TestSegmentsOfClosedDocumentsGo(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	for i := range 10 {
		MustPut(t, e, fmt.Sprint("closed", i), origin, "text")
		MustCheckpoint(t, e, fmt.Sprint("closed", i))
	}
	closeAll(t, e)
	first := segments(t, dir)[0]
	big := strings.Repeat("x", rotateAt/2)
	for range 3 {
		MustPut(t, e, "big", origin, big)
	}
	MustCheckpoint(t, e, "big")
	e.exclusively(e.trim)
	if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the first segment stays although all its documents are saved: %v", err)
	}
	for i := range 10 {
		if got := selectText(t, e, fmt.Sprint("closed", i), origin); got != "text" {
			t.Errorf("document %d reads %q", i, got)
		}
	}
}

// TestWritersWaitForMemory: while no checkpoint can be written, changes stop at
// the budget, and go on afterwards.
func TestWritersWaitForMemory(t *testing.T) {
	opts := options(t.TempDir())
	opts.Memory = 1 << 20
	e := MustOpenWith(t, opts)
	MustPut(t, e, "a", origin, "x")
	d := e.docs["a"]
	d.io.Lock() // as a checkpoint that takes long
	text := bytes.Repeat([]byte("y"), 10_000)
	waiting, giveUp := context.WithCancel(ctx)
	var all sync.WaitGroup
	for w := range 200 {
		all.Go(func() {
			at := phext.Origin
			at[8] = uint16(2 + w)
			if _, err := e.Put(waiting, "a", at, text, 0); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	for { // until the first writer waits
		e.mu.Lock()
		full := e.memory.freed != nil
		e.mu.Unlock()
		if full {
			break
		}
		runtime.Gosched()
	}
	giveUp()
	all.Wait()
	e.mu.Lock()
	held, n := e.memory.held, d.now.over.Len()
	e.mu.Unlock()
	if n < 90 || n > 104 || held > opts.Memory {
		t.Errorf("%d of 200 changes of 10,000 bytes went through, %d bytes are held, with a budget of %d", n, held, opts.Memory)
	}
	d.io.Unlock()
	for w := range 200 {
		at := phext.Origin
		at[8] = uint16(300 + w)
		if _, err := e.Put(ctx, "a", at, text, 0); err != nil {
			t.Fatal(err)
		}
	}
	if e.memory.held > opts.Memory {
		t.Errorf("%d bytes are held", e.memory.held)
	}
	// Larger than the budget, and yet it must be possible.
	MustPut(t, e, "a", origin, strings.Repeat("z", 3<<20))
	MustPut(t, e, "b", origin, "x")
	checkMemory(t, e)
}

// TestWritersDoNotWaitInVain: where checkpoints fail, writers are told.
func TestWritersDoNotWaitInVain(t *testing.T) {
	opts := options(t.TempDir())
	opts.Memory = 1 << 20
	e := MustOpenWith(t, opts)
	MustPut(t, e, "a", origin, "x")
	dir := e.control
	e.control = directory{} // no temporary file can be made
	var err error
	for i := range 200 {
		at := phext.Origin
		at[8] = uint16(2 + i)
		if _, err = e.Put(ctx, "a", at, bytes.Repeat([]byte("y"), 10_000), 0); err != nil {
			break
		}
	}
	if !errors.Is(err, errStuck) {
		t.Errorf("the last write: %v, want %v", err, errStuck)
	}
	e.control = dir
}

// TestEditedDocumentHoldsNobodyUp: the changes of a document that was edited by
// hand wait for a person, and other documents do not wait for them.
func TestEditedDocumentHoldsNobodyUp(t *testing.T) {
	dir := t.TempDir()
	opts := options(dir)
	opts.Memory = 1 << 20
	e := MustOpenWith(t, opts)
	MustPut(t, e, "a", origin, strings.Repeat("x", 400_000))
	MustWriteFile(t, dir, "a.phext", "by hand")
	for i := range 300 {
		MustAppend(t, e, fmt.Sprint("b", i%7), origin, strings.Repeat("y", 10_000))
	}
	if err := e.Reload(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if got := selectText(t, e, "a", origin); got != "by hand" {
		t.Errorf("the document reads %.20q", got)
	}
	kept, err := filepath.Glob(filepath.Join(dir, "a.conflict-*"))
	if err != nil || len(kept) != 1 || len(MustReadFile(t, kept[0])) != 400_000 {
		t.Errorf("kept are %v, %v", kept, err)
	}
}

// TestModelWithinBudget is TestModel, with fewer operations, for every form of
// the index and for budgets that close documents all the time.
func TestModelWithinBudget(t *testing.T) {
	for seed := range uint64(9) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			dir := t.TempDir()
			opts := options(dir)
			opts.layout = []layout{defaultLayout, sparse, {dense: 4, block: 100}}[seed%3]
			opts.Memory = []int64{0, 1, 10_000}[seed/3]
			e := MustOpenWith(t, opts)
			names := []string{"a", "b", "längere name"}
			docs := map[string]shadow{}
			for _, name := range names {
				docs[name] = shadow{}
			}
			rounds := 800
			if opts.Memory == 1 {
				rounds = 200 // each write waits for the checkpoint of the one before
			}
			for range rounds {
				name := names[r.IntN(len(names))]
				s := docs[name]
				at := near(r)
				text := words(r, 60)
				var err error
				switch r.IntN(20) {
				default:
					_, err = e.Put(ctx, name, at, text, 0)
					s[at] = string(text)
				case 0, 1, 2, 3, 4, 5:
					_, err = e.Append(ctx, name, at, text, 0)
					s[at] += string(text)
				case 6, 7, 8, 9:
					_, err = e.Delete(ctx, name, at)
					delete(s, at)
				case 10:
					if d := e.docs[name]; d != nil {
						err = e.checkpoint(d)
					}
				case 11:
					if r.IntN(4) == 0 {
						MustClose(t, e)
						e = MustOpenWith(t, opts)
					}
				case 12:
					e.abort()
					e = MustOpenWith(t, opts)
				case 13:
					err = e.Reload(ctx, name)
				case 14:
					_, err = e.Replace(ctx, name, bytes.NewReader(s.document()), 0)
				case 15:
					if r.IntN(4) == 0 {
						if _, err = e.Remove(ctx, name); errors.Is(err, ErrNotFound) {
							err = nil
						}
						docs[name] = shadow{}
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				docs[name].check(t, e, name)
				checkMemory(t, e)
			}
			total := int64(0)
			for name, s := range docs {
				s.check(t, e, name)
				total += int64(len(s.document()))
			}
			stats, err := e.Stats()
			if err != nil || stats.StorageBytes != total {
				t.Errorf("stats count %d bytes (%v), want %d", stats.StorageBytes, err, total)
			}
		})
	}
}

// TestThrash has readers, writers, whole replacements, removals, listings and
// checkpoints meet documents that are closed all the time.
func TestThrash(t *testing.T) {
	const writers = 8
	rounds := runs(20, 200)
	for _, memory := range []int64{1, 30_000} {
		t.Run(fmt.Sprint(memory), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			opts := options(dir)
			opts.Memory = memory
			opts.layout = sparse
			e := MustOpenWith(t, opts)
			var group, readers sync.WaitGroup
			models := make([]shadow, writers)
			stop := make(chan struct{})
			seqs := make([]atomic.Uint64, writers) // acknowledged
			for w := range writers {
				models[w] = shadow{}
				group.Go(func() {
					r := rand.New(rand.NewPCG(uint64(w), 5))
					name, s := fmt.Sprint("doc", w), models[w]
					for range rounds {
						at, text := near(r), words(r, 400)
						var got Result
						var err error
						switch r.IntN(12) {
						default:
							got, err = e.Put(ctx, name, at, text, 0)
							s[at] = string(text)
						case 0, 1, 2:
							got, err = e.Append(ctx, name, at, text, 0)
							s[at] += string(text)
						case 3, 4:
							got, err = e.Delete(ctx, name, at)
							delete(s, at)
						case 5:
							got, err = e.Replace(ctx, name, bytes.NewReader(s.document()), 0)
						case 6:
							err = e.Reload(ctx, name)
						case 7:
							if r.IntN(5) == 0 {
								if got, err = e.Remove(ctx, name); errors.Is(err, ErrNotFound) {
									err = nil
								}
								clear(s)
							}
						}
						if err != nil {
							t.Error(err)
							return
						}
						if got.Seq > 0 {
							seqs[w].Store(got.Seq)
						}
						v, err := e.View(name)
						if err != nil {
							t.Error(err)
							return
						}
						if got := string(v.Select(at)); got != s[at] || v.Seq() < seqs[w].Load() || v.Count() != s.count() {
							t.Errorf("%s: %q at %v with sequence %d, want %q and at least %d", name, got, at, v.Seq(), s[at], seqs[w].Load())
						}
						v.Close()
					}
				})
			}
			for i := range 4 {
				readers.Go(func() {
					r := rand.New(rand.NewPCG(uint64(i), 6))
					for {
						select {
						case <-stop:
							return
						default:
						}
						w := r.IntN(writers)
						seq := seqs[w].Load()
						v, err := e.View(fmt.Sprint("doc", w))
						if err != nil {
							t.Error(err)
							return
						}
						if v.Seq() < seq {
							t.Errorf("sequence %d after %d was acknowledged", v.Seq(), seq)
						}
						var b bytes.Buffer
						if _, err := v.WriteTo(&b); err != nil || int64(b.Len()) != v.Bytes() {
							t.Errorf("%d bytes of %d, %v", b.Len(), v.Bytes(), err)
						}
						v.Close()
						if i == 0 {
							if _, err := e.Stats(); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			group.Wait()
			close(stop)
			readers.Wait()
			verify := func() {
				t.Helper()
				total := int64(0)
				for w, s := range models {
					s.check(t, e, fmt.Sprint("doc", w))
					total += int64(len(s.document()))
				}
				if stats, err := e.Stats(); err != nil || stats.StorageBytes != total {
					t.Errorf("stats count %d bytes (%v), want %d", stats.StorageBytes, err, total)
				}
				checkMemory(t, e)
			}
			verify()
			e.abort()
			e = MustOpenWith(t, opts)
			verify()
		})
	}
}
