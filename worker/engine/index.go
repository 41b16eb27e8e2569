package engine

import (
	"sort"
	"unsafe"

	"github.com/sqedge/sqedge/shared/phext"
)

// layout says how an index is laid out.
type layout struct {
	dense int   // the most scrolls that are named one by one
	block int64 // bytes of text for each entry of a sparse index
}

// defaultLayout bounds a dense index to 640 KB, which 16 MB of text reach with
// scrolls of 1 KB and 1 MB with scrolls of 60 bytes. There a sparse one takes a
// hundredth of the memory and 6 µs for a select where scrolls are short, 1 µs
// where they are long, in place of 0.2 µs (BenchmarkIndex).
var defaultLayout = layout{dense: 16 << 10, block: 16 << 10}

// span is one scroll of a file: its place and its bytes [start:end].
type span struct {
	place      phext.Place
	start, end int64
}

// block is a part of a file that begins with a scroll.
type block struct {
	span     // that scroll
	from int // its position
}

// index finds the scrolls of a file by place and by position: their number in
// order, from 0. With few scrolls it names each one; with many it is sparse: it
// names the first of each block, and to find a scroll the block is parsed. A
// scroll as long as a block begins one, so that little is ever parsed.
//
// The text of a mapped file can change under a sparse index, by a person who
// writes into the file in place. Then it finds wrong scrolls, as a dense one
// finds wrong texts, but never leaves the text.
type index struct {
	layout
	scrolls int
	all     []span  // each scroll of a dense index
	blocks  []block // of a sparse one
}

// add appends a scroll, which must follow those added before.
func (x *index) add(s span) {
	if x.blocks == nil && x.scrolls < x.dense {
		x.all = append(x.all, s)
		x.scrolls++
		return
	}
	if x.blocks == nil {
		x.scrolls = 0
		for _, s := range x.all {
			x.addSparse(s)
		}
		x.all = nil
	}
	x.addSparse(s)
}

func (x *index) addSparse(s span) {
	if n := len(x.blocks); n == 0 || s.start-x.blocks[n-1].start >= x.block || s.end-s.start >= x.block {
		x.blocks = append(x.blocks, block{s, x.scrolls})
	}
	x.scrolls++
}

// trim gives back the memory that further scrolls would have taken.
func (x *index) trim() {
	x.all, x.blocks = exact(x.all), exact(x.blocks)
}

func exact[T any](s []T) []T {
	if cap(s)-len(s) > len(s)/8 {
		return append(make([]T, 0, len(s)), s...)
	}
	return s
}

// bytes returns how much memory the index takes.
func (x *index) bytes() int64 {
	return int64(cap(x.all))*int64(unsafe.Sizeof(span{})) + int64(cap(x.blocks))*int64(unsafe.Sizeof(block{}))
}

// spot is a scroll of a file with its position. Behind the last scroll the span
// is undefined. before is the scroll before, where the spot was sought and is
// not where the search began.
type spot struct {
	i int
	span
	before span
}

// start returns the first scroll.
func (x *index) start() (s spot) {
	switch {
	case len(x.all) > 0:
		s.span = x.all[0]
	case len(x.blocks) > 0:
		s.span = x.blocks[0].span
	}
	return s
}

// seek returns the first scroll, not before from, for which behind is false:
// it says whether the one sought comes after a scroll. data is the file.
func (x *index) seek(data []byte, from spot, behind func(i int, place phext.Place) bool) spot {
	if from.i >= x.scrolls || !behind(from.i, from.place) {
		return from
	}
	if x.blocks == nil {
		rest := x.all[from.i+1:]
		i := from.i + 1 + sort.Search(len(rest), func(k int) bool { return !behind(from.i+1+k, rest[k].place) })
		s := spot{i: i, before: x.all[i-1]}
		if i < len(x.all) {
			s.span = x.all[i]
		}
		return s
	}
	// It is in the last block that begins before it, or begins the next one.
	next := sort.Search(len(x.blocks), func(k int) bool { return !behind(x.blocks[k].from, x.blocks[k].place) })
	s, end := from, int64(len(data))
	if next < len(x.blocks) {
		end = x.blocks[next].start
	}
	if b := x.blocks[max(next, 1)-1]; b.from > from.i {
		s = spot{i: b.from, span: b.span}
	}
	if s.end > end {
		return s // the text has changed under the index
	}
	found, offset := false, s.end
	phext.ScanFrom(data[offset:end], s.place.Coordinate(), func(at phext.Coordinate, start, stop int) bool {
		s.before, s.span = s.span, span{at.Place(), offset + int64(start), offset + int64(stop)}
		s.i++
		found = !behind(s.i, s.place)
		return !found
	})
	switch {
	case found:
	case next < len(x.blocks):
		s = spot{i: x.blocks[next].from, span: x.blocks[next].span, before: s.span}
	default:
		s = spot{i: x.scrolls, before: s.span}
	}
	return s
}

// scanAfter yields the scrolls after one, up to the byte at end.
func scanAfter(data []byte, s span, end int64, yield func(span) bool) {
	if s.end > end {
		return // the text has changed under the index
	}
	phext.ScanFrom(data[s.end:end], s.place.Coordinate(), func(at phext.Coordinate, start, stop int) bool {
		return yield(span{at.Place(), s.end + int64(start), s.end + int64(stop)})
	})
}

// run is a range of scrolls of a file that follow each other.
type run struct{ from, to spot } // to, not included, was sought from from

// last returns the run's last scroll.
func (r run) last() span { return r.to.before }

// each yields the scrolls of a run.
func (x *index) each(data []byte, r run, yield func(span) bool) bool {
	if x.blocks == nil {
		for _, s := range x.all[r.from.i:r.to.i] {
			if !yield(s) {
				return false
			}
		}
		return true
	}
	more := yield(r.from.span)
	if more {
		scanAfter(data, r.from.span, r.last().end, func(s span) bool {
			more = yield(s)
			return more
		})
	}
	return more
}
