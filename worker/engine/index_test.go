package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// sparse makes every index sparse, with so little text in a block that small
// documents have many.
var sparse = layout{dense: 0, block: 40}

// layouts are those that tests of the engine run with.
var layouts = map[string]layout{"dense": defaultLayout, "sparse": sparse, "mixed": {dense: 20, block: 100}}

// MustParse indexes a text as a file's.
func MustParse(tb testing.TB, text []byte, l layout) *base {
	tb.Helper()
	b := &base{data: text}
	b.refs.Store(1)
	if err := b.parse(l); err != nil {
		tb.Fatal(err)
	}
	return b
}

// oddDocument returns a phext of about n scrolls, with redundant breaks, empty
// scrolls and some scrolls longer than a block.
func oddDocument(r *rand.Rand, n int) []byte {
	var text []byte
	for range n {
		text = append(text, words(r, []int{0, 5, 30, 30, 300}[r.IntN(5)])...)
		for range r.IntN(4) {
			// The coarse dimensions seldom, so that no number gets too large.
			text = append(text, phext.Breaks[max(r.IntN(phext.Dimensions), r.IntN(phext.Dimensions))])
		}
	}
	return text
}

// TestIndexLayouts compares every answer of sparse indexes, about random
// documents with changes, with those of a dense one.
func TestIndexLayouts(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		text := oddDocument(r, r.IntN(80))
		if seed%2 == 0 { // a canonical one
			scrolls, err := phext.Scrolls(text)
			if err != nil {
				t.Fatal(err)
			}
			text = phext.AppendDocument(nil, scrolls)
		}
		want := newContent(MustParse(t, text, layout{dense: 1 << 20}))
		all := want.base.index.all
		places := []phext.Coordinate{phext.Origin, near(r), {9, 9, 9, 9, 9, 9, 9, 9, 9}}
		for _, s := range all {
			beyond := s.place.Coordinate()
			beyond[phext.Dimensions-1]++
			places = append(places, s.place.Coordinate(), beyond)
		}
		for _, l := range []layout{{block: 1}, sparse, {block: 1 << 20}, {dense: len(all) / 2, block: 70}} {
			got := newContent(MustParse(t, text, l))
			if got.base.index.blocks == nil && len(all) > l.dense {
				t.Fatal("the index is not sparse")
			}
			compareBases(t, got.base, want.base, places)
			changes := rand.New(rand.NewPCG(seed, 8))
			a, b := want.snapshot(), got.snapshot()
			for range changes.IntN(100) {
				at, text := places[changes.IntN(len(places))], words(changes, 20)
				for _, c := range []*content{a, b} {
					c.set(at, text, c.sizeWith(at, len(c.get(at)), len(text)))
				}
			}
			compareContents(t, b, a, places)
		}
	}
}

func compareBases(t *testing.T, got, want *base, places []phext.Coordinate) {
	t.Helper()
	n := want.index.scrolls
	if got.index.scrolls != n || got.canonical != want.canonical {
		t.Fatalf("%d scrolls of %d bytes, want %d of %d", got.index.scrolls, got.canonical, n, want.canonical)
	}
	for i := range n {
		if s := got.position(got.start(), i); s.i != i || s.span != want.index.all[i] {
			t.Fatalf("position %d: %+v, want %+v", i, s, want.index.all[i])
		}
	}
	for _, at := range places {
		s, found := got.find(got.start(), at.Place())
		w, wanted := want.find(want.start(), at.Place())
		if s.i != w.i || found != wanted || s.i < n && s.span != w.span || s.i > 0 && s.before != w.before {
			t.Fatalf("find %v: %+v, %v, want %+v, %v", at, s, found, w, wanted)
		}
	}
	// Forward from anywhere, and every run.
	from := got.start()
	for i := 0; i < n; i += 1 + i%5 {
		from = got.position(from, i)
		to := got.position(from, min(n, i+i%7))
		if to.i == from.i {
			continue
		}
		var spans []span
		got.each(run{from, to}, func(s span) bool { spans = append(spans, s); return true })
		if !slices.Equal(spans, want.index.all[from.i:to.i]) {
			t.Fatalf("positions %d to %d: %v, want %v", from.i, to.i, spans, want.index.all[from.i:to.i])
		}
		again := 0
		if got.each(run{from, to}, func(s span) bool { again++; return again < 2 && len(spans) > 1 }) {
			t.Fatal("a run that was stopped says that it went on")
		}
	}
}

func compareContents(t *testing.T, got, want *content, places []phext.Coordinate) {
	t.Helper()
	if got.size != want.size || got.count != want.count {
		t.Fatalf("%d bytes, %d scrolls, want %d, %d", got.size, got.count, want.size, want.count)
	}
	var spans [2][]phext.Scroll
	var texts [2]bytes.Buffer
	var indexes [2]index
	for i, c := range []*content{got, want} {
		indexes[i].layout = c.base.index.layout
		c.scrolls(func(at phext.Coordinate, text []byte) bool {
			spans[i] = append(spans[i], phext.Scroll{At: at, Text: text})
			return true
		})
		if n, err := c.writeTo(&texts[i], &indexes[i]); err != nil || n != int64(texts[i].Len()) {
			t.Fatalf("wrote %d of %d bytes, %v", n, texts[i].Len(), err)
		}
		if c.modified && int64(texts[i].Len()) != c.size {
			t.Fatalf("wrote %d bytes of a document of %d", texts[i].Len(), c.size)
		}
	}
	if fmt.Sprint(spans[0]) != fmt.Sprint(spans[1]) || !bytes.Equal(texts[0].Bytes(), texts[1].Bytes()) {
		t.Fatalf("wrote %q, want %q", texts[0].Bytes(), texts[1].Bytes())
	}
	// The index made while writing is that of the text.
	fresh := MustParse(t, texts[0].Bytes(), got.base.index.layout)
	if fmt.Sprint(fresh.index.all, fresh.index.blocks) != fmt.Sprint(indexes[0].all, indexes[0].blocks) {
		t.Fatalf("the index made while writing is %v, want %v", indexes[0], fresh.index)
	}
	for _, at := range places {
		if !bytes.Equal(got.get(at), want.get(at)) {
			t.Fatalf("%v holds %q, want %q", at, got.get(at), want.get(at))
		}
		p1, n1, ok1 := got.neighbours(at)
		p2, n2, ok2 := want.neighbours(at)
		if p1 != p2 || ok1 != ok2 || ok1 && n1 != n2 {
			t.Fatalf("neighbours of %v: %v %v %v, want %v %v %v", at, p1, n1, ok1, p2, n2, ok2)
		}
	}
}

// TestTextChangesUnderIndex writes into a mapped file in place, as no editor
// does. Answers are wrong then, but nothing crashes or hangs.
func TestTextChangesUnderIndex(t *testing.T) {
	for name, l := range layouts {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 3))
			dir := t.TempDir()
			text := oddDocument(r, 200)
			text = append(text, bytes.Repeat([]byte("\x17a scroll of the document's later part"), mapAbove/30)...)
			opts := options(dir)
			opts.layout = l
			for seed := range 20 {
				MustWriteFile(t, dir, "a.phext", string(text))
				e := MustOpenWith(t, opts)
				v := MustView(t, e, "a")
				if !v.content.base.mapped {
					t.Fatal("the document is not mapped")
				}
				c := v.content.snapshot()
				places := []phext.Coordinate{phext.Origin}
				for at := range v.Scrolls() {
					if places = append(places, at); len(places) > 300 {
						break
					}
				}
				for range 100 {
					at, text := places[r.IntN(len(places))], words(r, 10)
					c.set(at, text, c.sizeWith(at, len(c.get(at)), len(text)))
				}
				f, err := os.OpenFile(filepath.Join(dir, "a.phext"), os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				garbage := make([]byte, 1+r.IntN(20_000))
				for i := range garbage {
					garbage[i] = "\x01\x1f\x1e\x1d\x1c\x1a\x19\x18\x17xxxxxx"[r.IntN(15)]
				}
				for range 1 + seed {
					if _, err := f.WriteAt(garbage, int64(r.IntN(30_000))); err != nil {
						t.Fatal(err)
					}
				}
				f.Close()
				for _, at := range places {
					c.get(at)
					c.set(at, nil, c.sizeWith(at, len(c.get(at)), 0))
					c.neighbours(at)
				}
				for range c.scrolls {
				}
				var x index
				x.layout = l
				c.writeTo(&bytes.Buffer{}, &x)
				c.release()
				v.Close()
				e.abort()
			}
		})
	}
}
