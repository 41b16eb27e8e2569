package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sqedge/sqedge/shared/phext"
)

func TestIdleDocumentIsCheckpointed(t *testing.T) {
	dir := t.TempDir()
	opts := options(dir)
	opts.idle = time.Millisecond
	done := make(chan time.Duration, 100)
	opts.ObserveCheckpoint = func(d time.Duration) { done <- d }
	e, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.abort)
	MustPut(t, e, "a", origin, "text")
	<-done
	if got := string(MustReadFile(t, dir, "a.phext")); got != "text" {
		t.Errorf("the file is %q after a checkpoint", got)
	}
	info, err := os.Stat(filepath.Join(dir, "a.phext"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file's mode is %v (%v), want 0600", info.Mode(), err)
	}
}

// TestBusyDocumentIsCheckpointed: so much is written that the log must not wait
// for the writer to pause.
func TestBusyDocumentIsCheckpointed(t *testing.T) {
	opts := options(t.TempDir())
	done := make(chan time.Duration, 100)
	opts.ObserveCheckpoint = func(d time.Duration) { done <- d }
	e, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.abort)
	for range 5 {
		MustPut(t, e, "a", origin, strings.Repeat("x", 300<<10))
	}
	<-done
}

func TestQuota(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	opts := options(t.TempDir())
	opts.Logger = zap.New(core)
	e, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.abort)
	put := func(at, text string) error {
		_, err := e.Put(ctx, "a", MustCoordinate(t, at), []byte(text), 100)
		return err
	}
	var full *QuotaError
	if err := put(origin, strings.Repeat("x", 101)); !errors.As(err, &full) || *full != (QuotaError{Used: 0, Quota: 100, Need: 101}) {
		t.Errorf("101 bytes: %v", err)
	}
	// Breaks count: 100 of them lead to the scroll.
	if err := put("1.1.1/1.1.1/1.1.101", "x"); !errors.As(err, &full) || full.Need != 101 {
		t.Errorf("100 breaks and a byte: %v", err)
	}
	if v := MustView(t, e, "a"); v.Exists() {
		t.Error("a refused write made a document")
	}
	if err := put(origin, strings.Repeat("x", 90)); err != nil || logs.Len() != 0 {
		t.Errorf("90 bytes: %v, %d warnings", err, logs.Len())
	}
	for _, text := range []string{"y", "yy"} {
		if err := put("1.1.1/1.1.1/1.1.2", text); err != nil {
			t.Error(err)
		}
	}
	if logs.Len() != 1 {
		t.Errorf("%d warnings beyond 90 %%, want one", logs.Len())
	}
	if err := put(origin, strings.Repeat("z", 97)); err != nil {
		t.Errorf("exactly the quota: %v", err)
	}
	if err := put(origin, strings.Repeat("z", 98)); !errors.As(err, &full) || full.Used != 100 || full.Need != 1 {
		t.Errorf("one byte more: %v", err)
	}
}

func TestCancelledWrite(t *testing.T) {
	e := MustOpen(t, t.TempDir())
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := e.Put(cancelled, "a", phext.Origin, []byte("x"), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v, want Canceled", err)
	}
	if v := MustView(t, e, "a"); v.Exists() {
		t.Error("a write that was cancelled before it began happened")
	}
}

// TestViewIsOneMoment reads while writers change two scrolls of a document, and
// checkpoints replace its file, always to the same text in one record's time.
func TestViewIsOneMoment(t *testing.T) {
	e := MustOpen(t, t.TempDir())
	MustPut(t, e, "a", origin, strings.Repeat("x", mapAbove+1))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		defer close(stop)
		for range 100 {
			MustAppend(t, e, "a", "1.1.1/1.1.1/1.1.2", "first")
			MustAppend(t, e, "a", "1.1.1/1.1.1/1.1.3", "later")
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				MustCheckpoint(t, e, "a")
			}
		}
	})
	first, later := MustCoordinate(t, "1.1.1/1.1.1/1.1.2"), MustCoordinate(t, "1.1.1/1.1.1/1.1.3")
	for range 4 {
		wg.Go(func() {
			seq := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				v := MustView(t, e, "a")
				n, m := len(v.Select(first)), len(v.Select(later))
				if n != m && n != m+5 {
					t.Errorf("one scroll has %d bytes and the other %d", n, m)
				}
				if v.Seq() < seq {
					t.Errorf("sequence %d after %d", v.Seq(), seq)
				}
				seq = v.Seq()
				var b bytes.Buffer
				v.WriteTo(&b)
				if int64(b.Len()) != v.Bytes() || v.Checksum() != phext.Checksum(b.Bytes()) {
					t.Error("a view changed while it was read")
				}
				v.Close()
			}
		})
	}
	wg.Wait()
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	MustWriteFile(t, dir, "placed.phext", "a\x17b")
	MustWriteFile(t, dir, "gone.phext", "abc")
	MustWriteFile(t, dir, ".hidden.phext", "x")
	MustWriteFile(t, dir, "notes.txt", "x")
	e := MustOpen(t, dir)
	MustPut(t, e, "new", origin, "text")
	if err := os.Remove(filepath.Join(dir, "gone.phext")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from what was counted
		infos, err := e.List()
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, info := range infos {
			names = append(names, info.Name)
			if info.Err != nil || info.Modified.IsZero() {
				t.Errorf("%+v", info)
			}
		}
		if !slices.Equal(names, []string{"new", "placed"}) || infos[0].Bytes != 4 || infos[0].Scrolls != 1 || infos[1].Bytes != 3 || infos[1].Scrolls != 2 {
			t.Errorf("list %+v", infos)
		}
	}
	stats, err := e.Stats()
	if err != nil || stats.StorageBytes != 7 || stats.Documents != 2 || stats.Scrolls != 3 || stats.LogBytes != firstAlloc || stats.Seq == 0 {
		t.Errorf("%+v, %v", stats, err)
	}
}

// TestAppendToLongScroll: a long scroll is copied without the engine's lock
// while others append to it, put it anew, and a checkpoint moves it.
func TestAppendToLongScroll(t *testing.T) {
	const appenders, each = 8, 40
	dir := t.TempDir()
	long := strings.Repeat("x", 2<<20) // mapped from its file
	MustWriteFile(t, dir, "a.phext", long)
	e := MustOpen(t, dir)
	var all sync.WaitGroup
	failed := make(chan error, 2*appenders)
	for w := range appenders {
		all.Go(func() {
			for i := range each {
				if _, err := e.Append(ctx, "a", phext.Origin, fmt.Appendf(nil, "(%d %d)", w, i), 0); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Go(func() {
		for range 10 {
			if _, err := e.Put(ctx, "a", phext.Coordinate{9, 9, 9, 9, 9, 9, 9, 9, 9}, []byte(long), 0); err != nil {
				failed <- err
			}
			if err := e.checkpoint(e.docs["a"]); err != nil {
				failed <- err
			}
		}
	})
	all.Wait()
	close(failed)
	for err := range failed {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		rest, ok := strings.CutPrefix(selectText(t, e, "a", origin), long)
		if !ok {
			t.Fatal("the scroll does not begin with what it was")
		}
		var next [appenders]int
		for rest != "" {
			var w, i int
			if _, err := fmt.Sscanf(rest, "(%d %d)", &w, &i); err != nil || i != next[w] {
				t.Fatalf("the scroll goes on %.60q, %v; want number %d of that writer", rest, err, next[w])
			}
			next[w]++
			_, rest, _ = strings.Cut(rest, ")")
		}
		for w, n := range next {
			if n != each {
				t.Errorf("writer %d has %d of %d appends", w, n, each)
			}
		}
	}
	check()
	e.abort()
	e = MustOpen(t, dir)
	check()
}

// TestRoomIsForOneText: a copy made ahead must not serve a scroll that was
// replaced meanwhile.
func TestRoomIsForOneText(t *testing.T) {
	at := phext.Origin
	c := newContent(absent(0))
	put := func(text string) { c.set(at, []byte(text), c.sizeWith(at, len(c.get(at)), len(text))) }
	put("first")
	var space room
	defer space.release()
	space.pin(c, at)
	space.fill(10)
	if got := string(extended(c.get(at), []byte("!"), space)); got != "first!" {
		t.Errorf("the copied text becomes %q", got)
	}
	grown := append(c.get(at)[:5:5], " grown"...)
	c.set(at, grown, c.sizeWith(at, 5, len(grown)))
	put("other text")
	if got := string(extended(c.get(at), []byte("!"), space)); got != "other text!" {
		t.Errorf("another text becomes %q", got)
	}
}
