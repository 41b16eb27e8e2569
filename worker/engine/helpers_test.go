package engine

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/phext"
)

var ctx = context.Background()

// never keeps the idle checkpoint out of tests that say when one happens.
const never = 24 * time.Hour

func options(dir string) Options {
	return Options{Dir: dir, Tenant: "test", Logger: zap.NewNop(), idle: never}
}

// MustOpen opens an engine; it crashes at the end of the test unless closed.
func MustOpen(tb testing.TB, dir string) *Engine {
	tb.Helper()
	return MustOpenWith(tb, options(dir))
}

func MustOpenWith(tb testing.TB, opts Options) *Engine {
	tb.Helper()
	e, err := Open(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(e.abort)
	return e
}

func MustClose(tb testing.TB, e *Engine) {
	tb.Helper()
	if err := e.Close(); err != nil {
		tb.Fatal(err)
	}
}

func MustCoordinate(tb testing.TB, s string) phext.Coordinate {
	tb.Helper()
	c, err := phext.ParseCoordinate(s)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func MustPut(tb testing.TB, e *Engine, document, at, text string) Result {
	tb.Helper()
	r, err := e.Put(ctx, document, MustCoordinate(tb, at), []byte(text), 0)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func MustAppend(tb testing.TB, e *Engine, document, at, text string) Result {
	tb.Helper()
	r, err := e.Append(ctx, document, MustCoordinate(tb, at), []byte(text), 0)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func MustView(tb testing.TB, e *Engine, document string) *View {
	tb.Helper()
	v, err := e.View(document)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(v.Close)
	return v
}

func selectText(tb testing.TB, e *Engine, document, at string) string {
	tb.Helper()
	v := MustView(tb, e, document)
	defer v.Close()
	return string(v.Select(MustCoordinate(tb, at)))
}

func MustWriteFile(tb testing.TB, dir, name, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func MustReadFile(tb testing.TB, path ...string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// MustCheckpoint writes the document's file now.
func MustCheckpoint(tb testing.TB, e *Engine, document string) {
	tb.Helper()
	if err := e.checkpoint(e.docs[document]); err != nil {
		tb.Fatal(err)
	}
}

// CopyDir copies a data directory as a crash at this moment would leave it.
func CopyDir(tb testing.TB, from string) string {
	tb.Helper()
	to := tb.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		tb.Fatal(err)
	}
	return to
}

// segments returns the paths of the log's segments, oldest first.
func segments(tb testing.TB, dir string) []string {
	tb.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, controlFolder, segmentPrefix+"*"))
	if err != nil {
		tb.Fatal(err)
	}
	return paths
}

// shadow is the plain model of a document.
type shadow map[phext.Coordinate]string

func (s shadow) document() []byte {
	var scrolls []phext.Scroll
	for at, text := range s {
		scrolls = append(scrolls, phext.Scroll{At: at, Text: []byte(text)})
	}
	sortScrolls(scrolls)
	return phext.AppendDocument(nil, scrolls)
}

func (s shadow) count() (n int64) {
	for _, text := range s {
		if text != "" {
			n++
		}
	}
	return n
}

// check compares every answer about a document with the model's.
func (s shadow) check(tb testing.TB, e *Engine, document string) {
	tb.Helper()
	v := MustView(tb, e, document)
	defer v.Close()
	want := s.document()
	var got bytes.Buffer
	if _, err := v.WriteTo(&got); err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		tb.Fatalf("document %s is\n%q, want\n%q", document, clip(got.Bytes()), clip(want))
	}
	if v.Bytes() != int64(len(want)) || v.Count() != s.count() || v.Checksum() != phext.Checksum(want) {
		tb.Fatalf("document %s has %d bytes, %d scrolls, checksum %s; want %d, %d, %s",
			document, v.Bytes(), v.Count(), v.Checksum(), len(want), s.count(), phext.Checksum(want))
	}
	s.checkScrolls(tb, v)
}

// checkScrolls compares a view's scrolls, one by one, with the model's.
func (s shadow) checkScrolls(tb testing.TB, v *View) {
	tb.Helper()
	n := int64(0)
	for at, text := range v.Scrolls() {
		if s[at] != string(text) {
			tb.Fatalf("the document has %q at %v, want %q", text, at, s[at])
		}
		n++
	}
	if n != s.count() || v.Count() != n {
		tb.Fatalf("the document yields %d scrolls and counts %d, want %d", n, v.Count(), s.count())
	}
	for at, text := range s {
		if got := v.Select(at); string(got) != text {
			tb.Fatalf("the document selects %q at %v, want %q", got, at, text)
		}
	}
}

// place is a scroll of the first section.
func place(at int) phext.Coordinate {
	c := phext.Origin
	c[phext.Dimensions-1] = uint16(at)
	return c
}

func clip(b []byte) []byte { return b[:min(len(b), 2000)] }

// near returns a coordinate of a small space, so that operations meet.
func near(r *rand.Rand) phext.Coordinate {
	at := phext.Origin
	for range 1 + r.IntN(2) {
		at[r.IntN(phext.Dimensions)] = uint16(1 + r.IntN(4))
	}
	if r.IntN(500) == 0 {
		at[r.IntN(phext.Dimensions)] = uint16(1 + r.IntN(phext.Max))
	}
	return at
}

func words(r *rand.Rand, limit int) []byte {
	var b []byte
	for n := r.IntN(limit + 1); len(b) < n; {
		b = fmt.Appendf(b, "wörd%d ", r.IntN(1000))
	}
	return b
}
