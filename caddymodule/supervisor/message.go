package supervisor

import "io"

// Request is what a worker is asked. It is no http.Request, as Answer is no
// http.Response: they have what goes to a worker and comes back, and cost a client's
// request no maps.
type Request struct {
	Method string
	Target string // path and query, escaped
	Header Header

	Body          io.Reader // nil for none
	ContentLength int64     // of Body in bytes, -1 where unknown
}

// Answer is what a worker says. Whoever got it must close its Body.
type Answer struct {
	StatusCode    int
	Header        Header
	ContentLength int64 // of Body in bytes, -1 where unknown; 0 where there is none, whatever the header says
	Body          io.ReadCloser

	chunked bool
	last    bool // the worker closes the connection behind it
}

// Header has fields in the order in which they are sent. A name may be there more
// than once; those of an answer are in their canonical form.
type Header []Field

// Add adds a field at the end.
func (h *Header) Add(name, value string) { *h = append(*h, Field{name, [1]string{value}}) }

// Field is one field of a header. Its value is an array, so that it can go into an
// http.Header as it is.
type Field struct {
	Name  string
	Value [1]string
}
