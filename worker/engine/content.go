package engine

import (
	"bufio"
	"io"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"
	"github.com/zeebo/xxh3"

	"github.com/sqedge/sqedge/shared/phext"
)

// entry is a scroll that is not in the file as it is; its text is not empty.
type entry struct {
	place phext.Place
	text  []byte
}

// gap is a range of positions [from:to] of a base's index that count no more.
type gap struct{ from, to int }

// content is one version of a document: a file and the changes over it. A
// scroll is either in over or in the file and outside all gaps, never in both.
// Gaps are merged, so that finding a scroll's neighbours takes two look-ups
// however many scrolls around it were deleted.
type content struct {
	base  *base
	over  *btree.BTreeG[entry]
	gaps  *btree.BTreeG[gap]
	size  int64 // bytes of the document's text
	count int64 // scrolls
	held  int64 // bytes of memory that over takes
	seq   uint64
	time  time.Time // of the last change

	// modified is set by the first change. Until then the text is the file's,
	// byte for byte; from then on it is canonical.
	modified bool

	path btree.PathHint // to the scroll that was set, or is to be

	checksum atomic.Pointer[string] // of a snapshot, once it was asked for
}

// newContent is a file without changes; it takes over the caller's reference.
func newContent(b *base) *content {
	// The first change after a snapshot copies the nodes on its way, so small
	// ones are faster here than the library's.
	tree := btree.Options{NoLocks: true, Degree: 8}
	return &content{
		base:  b,
		over:  btree.NewBTreeGOptions(func(a, b entry) bool { return a.place.Less(b.place) }, tree),
		gaps:  btree.NewBTreeGOptions(func(a, b gap) bool { return a.from < b.from }, tree),
		size:  int64(len(b.data)),
		count: int64(b.index.scrolls),
		seq:   b.record.seq,
		time:  b.modified(),
	}
}

// snapshot returns a version that no later change alters. It shares all memory
// and holds a reference to the base.
func (c *content) snapshot() *content {
	c.base.refs.Add(1)
	return &content{base: c.base, over: c.over.Copy(), gaps: c.gaps.Copy(),
		size: c.size, count: c.count, held: c.held, seq: c.seq, time: c.time, modified: c.modified}
}

func (c *content) release() { c.base.release() }

// exists tells a document that is empty from one that is not there.
func (c *content) exists() bool { return c.base.record.exists || c.modified }

// hidden returns the gap that position i lies in.
func (c *content) hidden(i int) (g gap, ok bool) {
	c.gaps.Descend(gap{from: i}, func(item gap) bool {
		g, ok = item, i <= item.to
		return false
	})
	return g, ok
}

// get returns the text at a place, nil where there is none.
func (c *content) get(at phext.Coordinate) []byte { return c.look(at, nil) }

// getToSet is get for a scroll that is to be set next. Unlike get it is not for
// concurrent use.
func (c *content) getToSet(at phext.Coordinate) []byte { return c.look(at, &c.path) }

func (c *content) look(at phext.Coordinate, path *btree.PathHint) []byte {
	if e, ok := c.over.GetHint(entry{place: at.Place()}, path); ok {
		return e.text
	}
	if s, ok := c.base.find(c.base.start(), at.Place()); ok {
		if _, gone := c.hidden(s.i); !gone {
			return c.base.text(s.span)
		}
	}
	return nil
}

// sizeWith returns the document's size once the scroll at a place, now old
// bytes long, has n bytes.
func (c *content) sizeWith(at phext.Coordinate, old, n int) int64 {
	size := c.size
	if !c.modified {
		size = c.base.canonical
	}
	size += int64(n - old)
	if (old == 0) == (n == 0) {
		return size
	}
	prev, next, hasNext := c.neighbours(at)
	breaks := phext.CountBreaks(prev, at)
	if hasNext {
		breaks += phext.CountBreaks(at, next) - phext.CountBreaks(prev, next)
	}
	if n == 0 {
		return size - breaks
	}
	return size + breaks
}

// neighbours returns the places of the scrolls before and after a place. Where
// there is none before, the document's origin counts as one.
func (c *content) neighbours(at phext.Coordinate) (prev, next phext.Coordinate, hasNext bool) {
	prev = phext.Origin
	pivot := entry{place: at.Place()}
	c.over.Descend(pivot, func(e entry) bool {
		if e.place == pivot.place {
			return true
		}
		prev = e.place.Coordinate()
		return false
	})
	c.over.Ascend(pivot, func(e entry) bool {
		if e.place == pivot.place {
			return true
		}
		next, hasNext = e.place.Coordinate(), true
		return false
	})
	s, found := c.base.find(c.base.start(), pivot.place)
	before, after := s.i-1, s.i
	if found {
		after++
	}
	if g, gone := c.hidden(before); gone {
		before = g.from - 1
	}
	if g, gone := c.hidden(after); gone {
		after = g.to + 1
	}
	if before >= 0 {
		if place := c.base.place(s, before); prev.Less(place) {
			prev = place
		}
	}
	if after < c.base.index.scrolls {
		if place := c.base.place(s, after); !hasNext || place.Less(next) {
			next, hasNext = place, true
		}
	}
	return prev, next, hasNext
}

// set makes text the scroll at a place. The size must be sizeWith's; text must
// not change afterwards.
func (c *content) set(at phext.Coordinate, text []byte, size int64) {
	var was entry
	had := false
	if len(text) == 0 {
		was, had = c.over.DeleteHint(entry{place: at.Place()}, &c.path)
	} else {
		is := entry{at.Place(), text}
		was, had = c.over.SetHint(is, &c.path)
		c.count++
		c.held += is.bytes()
	}
	if had {
		c.held -= was.bytes()
	}
	if !had {
		if s, ok := c.base.find(c.base.start(), at.Place()); ok {
			had = c.hide(s.i)
		}
	}
	if had {
		c.count--
	}
	c.size, c.modified = size, true
}

// hide adds a position to the gaps and reports whether it was visible.
func (c *content) hide(i int) bool {
	if _, gone := c.hidden(i); gone {
		return false
	}
	g := gap{i, i}
	if left, ok := c.hidden(i - 1); ok {
		g.from = left.from
		c.gaps.Delete(left)
	}
	if right, ok := c.hidden(i + 1); ok {
		g.to = right.to
		c.gaps.Delete(right)
	}
	c.gaps.Set(g)
	return true
}

// extended returns old with text appended. Where old is a changed scroll's
// newest text it grows in place: older versions see their own, shorter length.
// A scroll of the file has no capacity to spare, so it is copied.
func extended(old, text []byte, space room) []byte {
	if space.holds(old, len(text)) {
		old = append(space.copy, old[len(space.copy):]...)
	}
	return append(old, text...)
}

// room is a copy of a long scroll that is about to grow, with capacity to spare:
// so the engine need not wait while it is copied.
type room struct {
	base *base // pinned, so that old's address stays its own
	old  []byte
	copy []byte
}

// pin refers to the scroll at a place, until release.
func (r *room) pin(c *content, at phext.Coordinate) {
	r.release()
	c.base.refs.Add(1)
	*r = room{base: c.base, old: c.get(at)}
}

// fill copies the scroll.
func (r *room) fill(more int) {
	r.copy = append(make([]byte, 0, len(r.old)+len(r.old)/4+more), r.old...)
}

func (r *room) release() {
	if r.base != nil {
		r.base.release()
	}
}

// holds reports whether old is the scroll that was copied, or has grown out of
// it in place, and more bytes fit. No text changes, so its address tells.
func (r *room) holds(old []byte, more int) bool {
	return len(r.copy) > 0 && len(old) >= len(r.copy) && &old[0] == &r.old[0] && len(old)+more <= cap(r.copy)
}

// fits reports whether old grows by more bytes without a long copy.
func (r *room) fits(old []byte, more int) bool {
	const long = 64 << 10
	return len(old) < long || len(old)+more <= cap(old) || r.holds(old, more)
}

// replay applies one operation of the log and returns its text as stored.
func (c *content) replay(o op, seq uint64) {
	old := c.get(o.at)
	var text []byte
	switch o.kind {
	case opAppend:
		text = extended(old, o.text, room{})
	case opPut:
		text = append([]byte(nil), o.text...) // o.text pins the whole segment
	}
	c.set(o.at, text, c.sizeWith(o.at, len(old), len(text)))
	c.seq = seq
}

// pieces yields the document in order: runs of the file's scrolls that follow
// each other unchanged, or, where r is nil, a changed scroll.
func (c *content) pieces(yield func(r *run, e entry) bool) {
	at, more := c.base.start(), true
	end := c.base.index.scrolls
	var hole gap
	nextHole := func() {
		hole = gap{end, end}
		c.gaps.Ascend(gap{from: at.i}, func(g gap) bool { hole = g; return false })
	}
	upTo := func(limit spot) {
		for more && at.i < limit.i {
			if at.i >= hole.from {
				at = c.base.position(at, hole.to+1)
				nextHole()
				continue
			}
			to := limit
			if hole.from < limit.i {
				to = c.base.position(at, hole.from)
			}
			if to.before.end >= at.end { // else the text has changed under the index
				more = yield(&run{at, to}, entry{})
			}
			at = to
		}
	}
	nextHole()
	c.over.Scan(func(e entry) bool {
		limit, _ := c.base.find(at, e.place)
		upTo(limit)
		more = more && yield(nil, e)
		return more
	})
	upTo(c.base.position(at, end))
}

// scrolls yields every scroll in order.
func (c *content) scrolls(yield func(phext.Coordinate, []byte) bool) {
	c.pieces(func(r *run, e entry) bool {
		if r == nil {
			return yield(e.place.Coordinate(), e.text)
		}
		return c.base.each(*r, func(s span) bool { return yield(s.place.Coordinate(), c.base.text(s)) })
	})
}

// writeTo writes the document's text. Where x is not nil, the text is canonical
// even if the document is unchanged, and x receives its scrolls.
func (c *content) writeTo(w io.Writer, x *index) (int64, error) {
	if !c.modified && x == nil {
		n, err := w.Write(c.base.data)
		return int64(n), err
	}
	var (
		b       = bufio.NewWriterSize(w, 128<<10)
		at      = phext.Origin
		written int64
		breaks  []byte
		err     error
	)
	// emit writes text that begins at the place first and ends at the place last.
	emit := func(first, last phext.Coordinate, text []byte) bool {
		breaks = phext.AppendBreaks(breaks[:0], at, first)
		b.Write(breaks)
		_, err = b.Write(text)
		written += int64(len(breaks) + len(text))
		at = last
		return err == nil
	}
	scroll := func(at phext.Coordinate, text []byte) bool {
		ok := emit(at, at, text)
		if x != nil {
			x.add(span{at.Place(), written - int64(len(text)), written})
		}
		return ok
	}
	c.pieces(func(r *run, e entry) bool {
		switch {
		case r == nil:
			return scroll(e.place.Coordinate(), e.text)
		case !c.base.isCanonical():
			return c.base.each(*r, func(s span) bool { return scroll(s.place.Coordinate(), c.base.text(s)) })
		}
		// The breaks between are right as they are.
		first, last := r.from.span, r.last()
		if !emit(first.place.Coordinate(), last.place.Coordinate(), c.base.data[first.start:last.end]) {
			return false
		}
		if x != nil {
			shift := written - last.end
			c.base.each(*r, func(s span) bool {
				x.add(span{s.place, s.start + shift, s.end + shift})
				return true
			})
		}
		return true
	})
	if err == nil {
		err = b.Flush()
	}
	return written, err
}

// hash returns the xxh3-128 of the text; only for snapshots.
func (c *content) hash() [16]byte {
	if !c.modified {
		if !c.base.record.exists {
			return xxh3.Hash128(nil).Bytes()
		}
		return c.base.record.hash
	}
	h := xxh3.New()
	c.writeTo(h, nil)
	return h.Sum128().Bytes()
}
