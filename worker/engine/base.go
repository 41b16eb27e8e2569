package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// mapAbove is the size in bytes above which a document's file is mapped instead
// of read. A mapping costs no memory of its own, but a person who truncates the
// file in place takes its pages away, and reading them is then a fault. The
// engine turns such a fault into an error where it reads on its own account
// (see guard); whoever reads through a [View] must call debug.SetPanicOnFault
// in that goroutine. Replacing a file by rename, as editors do, is harmless.
const mapAbove = 1 << 20

// base is one version of a document's file, never changed, kept as long as
// anyone refers to it, even when its name leads to a newer file by now.
type base struct {
	refs      atomic.Int64
	data      []byte
	mapped    bool
	index     index
	canonical int64 // bytes the scrolls take in canonical form
	id        identity
	record    fileRecord
}

// absent is the base of a document without a file.
func absent(seq uint64) *base {
	b := &base{record: fileRecord{seq: seq}}
	b.refs.Store(1)
	return b
}

// acquire adds a reference, unless the last one is gone already.
func (b *base) acquire() bool {
	for {
		n := b.refs.Load()
		if n == 0 {
			return false
		}
		if b.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (b *base) release() {
	if b.refs.Add(-1) == 0 && b.mapped {
		// Of a large file this takes milliseconds, and writers may be waiting.
		go unix.Munmap(b.data)
		b.data, b.index = nil, index{}
	}
}

// isCanonical reports that the file holds the fewest breaks that its scrolls
// need. Those are unique, so the length alone tells.
func (b *base) isCanonical() bool { return b.canonical == int64(len(b.data)) }

// modified returns when the file was written, the zero time without one.
func (b *base) modified() time.Time {
	if !b.id.exists {
		return time.Time{}
	}
	return time.Unix(0, b.id.mtime).UTC()
}

func (b *base) text(s span) []byte { return b.data[s.start:s.end:s.end] }

// start returns the file's first scroll.
func (b *base) start() spot { return b.index.start() }

// find returns the scroll at a place, or the one after it. The search begins at
// from and never goes back.
func (b *base) find(from spot, at phext.Place) (s spot, found bool) {
	s = b.index.seek(b.data, from, func(_ int, place phext.Place) bool { return place.Less(at) })
	return s, s.i < b.index.scrolls && s.place == at
}

// position returns the scroll at a position. See find.
func (b *base) position(from spot, at int) spot {
	return b.index.seek(b.data, from, func(i int, _ phext.Place) bool { return i < at })
}

// place returns where the scroll at a position is. It is quick next to near.
func (b *base) place(near spot, i int) phext.Coordinate {
	switch {
	case i == near.i-1:
		return near.before.place.Coordinate()
	case i < near.i:
		near = b.start()
	}
	return b.position(near, i).place.Coordinate()
}

// each yields the scrolls of a run.
func (b *base) each(r run, yield func(span) bool) bool { return b.index.each(b.data, r, yield) }

// openBase opens a document's file, verifies and indexes it. A document without
// a file is a base too. The file's sequence is left to the caller.
func openBase(dir directory, document string, l layout) (*base, error) {
	f, err := dir.open(document+wire.DocumentExt, unix.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return absent(0), nil
	}
	if isOddFile(err) {
		return nil, &DocumentError{document, ErrNotRegular}
	}
	if err != nil {
		return nil, &DocumentError{document, err}
	}
	defer f.Close()
	id, err := identityOfFile(f)
	if err == nil && !id.regular {
		err = ErrNotRegular
	}
	if err != nil {
		return nil, &DocumentError{document, err}
	}
	b, err := loadBase(f, id)
	if err == nil {
		err = guard(func() error { return b.parse(l) })
		if err != nil {
			b.release()
		}
	}
	if err != nil {
		return nil, &DocumentError{document, err}
	}
	return b, nil
}

// lasting reports whether a file that could not be opened will not be until it
// is changed. Other errors may pass.
func lasting(err error) bool {
	var bad *phext.TextError
	return errors.Is(err, ErrNotRegular) || errors.As(err, &bad)
}

// loadBase reads or maps f, and leaves index and hash to the caller.
func loadBase(f *os.File, id identity) (*base, error) {
	b := &base{id: id}
	b.refs.Store(1)
	b.record.exists = true
	b.record.size = id.size
	var err error
	if id.size > mapAbove {
		b.mapped = true
		err = directory{f}.at(func(fd int) (err error) {
			b.data, err = unix.Mmap(fd, 0, int(id.size), unix.PROT_READ, unix.MAP_SHARED)
			return err
		})
	} else {
		b.data = make([]byte, id.size)
		_, err = io.ReadFull(io.NewSectionReader(f, 0, id.size), b.data)
	}
	if err != nil {
		return nil, fmt.Errorf("read %d bytes: %w", id.size, err)
	}
	return b, nil
}

// parse fills index and hash from the data; the error is a *phext.TextError.
func (b *base) parse(l layout) error {
	if err := phext.Validate(b.data); err != nil {
		return err
	}
	at := phext.Origin
	b.index, b.canonical = index{layout: l}, 0
	err := phext.Scan(b.data, func(place phext.Coordinate, start, end int) {
		b.index.add(span{place.Place(), int64(start), int64(end)})
		b.canonical += phext.CountBreaks(at, place) + int64(end-start)
		at = place
	})
	b.index.trim()
	b.record.hash = xxh3.Hash128(b.data).Bytes()
	return err
}

// guard runs fn and turns a fault in a mapping, whose file was truncated under
// it, into an error.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // runtime's memory error
			err = errors.New("the file was truncated while it was in use, or the disk cannot read it")
		default:
			panic(r)
		}
	}()
	return fn()
}
