package engine

import (
	"encoding/hex"
	"io"
	"iter"
	"sync/atomic"
	"time"

	"github.com/sqedge/sqedge/shared/phext"
)

// View is a document at one moment at which all of it was durable. Writes that
// come later do not show in it and are not held up by it. It may be used by
// several goroutines at once and must be closed: until then it keeps the
// version of the file it reads.
type View struct {
	content *content
	closed  atomic.Bool
}

// View returns the document as it is now. A missing document is an empty view;
// no file is created. The error is [ErrClosed] or a *[DocumentError].
//
// A large file is mapped, so a goroutine that reads texts of a view should have
// called debug.SetPanicOnFault, in case a person truncates the file meanwhile.
func (e *Engine) View(document string) (*View, error) {
	d, err := e.find(document, false)
	if err != nil {
		return nil, err
	}
	if d == nil {
		e.mu.Lock()
		seq := e.seq
		e.mu.Unlock()
		return &View{content: newContent(absent(seq))}, nil
	}
	defer d.unpin()
	c := d.published()
	if c == nil {
		return nil, ErrClosed
	}
	return &View{content: c}, nil
}

// Close ends the view. Texts it returned must not be used any more.
func (v *View) Close() {
	if !v.closed.Swap(true) {
		v.content.release()
	}
}

// Exists reports whether there is such a document, be it empty.
func (v *View) Exists() bool { return v.content.exists() }

// Select returns the scroll at a place, nil where there is none. It is valid,
// and must not be changed, until Close.
func (v *View) Select(at phext.Coordinate) []byte { return v.content.get(at) }

// Scrolls yields the scrolls that are not empty, in order.
func (v *View) Scrolls() iter.Seq2[phext.Coordinate, []byte] { return v.content.scrolls }

// WriteTo writes the document's text: the file byte for byte where it was not
// changed since it was placed, else in canonical form.
func (v *View) WriteTo(w io.Writer) (int64, error) { return v.content.writeTo(w, nil) }

// Bytes returns how many bytes WriteTo writes.
func (v *View) Bytes() int64 { return v.content.size }

// Count returns the number of scrolls.
func (v *View) Count() int64 { return v.content.count }

// Checksum returns the xxh3-128 of what WriteTo writes, as 32 hex digits.
func (v *View) Checksum() string {
	// Not a sync.Once, which would take a fault of the mapping for an answer.
	if known := v.content.checksum.Load(); known != nil {
		return *known
	}
	sum := v.content.hash()
	checksum := hex.EncodeToString(sum[:])
	v.content.checksum.Store(&checksum)
	return checksum
}

// Seq returns the sequence of the document's last change, or of the engine when
// the document's file was opened or found missing.
func (v *View) Seq() uint64 { return v.content.seq }

// Modified returns when the document last changed, in UTC.
func (v *View) Modified() time.Time { return v.content.time }
