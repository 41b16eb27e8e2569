package supervisor

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
)

var errRevoked = errors.New("the request is sent elsewhere")

// body lets one request body serve several attempts to send it. net/http closes
// a request's body when an attempt fails, whether or not it read from it; here
// that ends the attempt alone.
type body struct {
	source  io.ReadCloser // nil if the request has none
	getBody func() (io.ReadCloser, error)
	current *attempt
}

func newBody(r *http.Request) *body {
	b := &body{source: r.Body, getBody: r.GetBody}
	if r.Body == http.NoBody {
		b.source = nil
	}
	if b.source == nil && (r.Header["Idempotency-Key"] != nil || r.Header["X-Idempotency-Key"] != nil) {
		// net/http repeats a request with such a header by itself, even one
		// that was sent, but never one whose body it cannot have again.
		b.source = io.NopCloser(strings.NewReader(""))
	}
	return b
}

// attach makes out, a copy of the request, read from the body.
func (b *body) attach(out *http.Request) {
	out.GetBody = nil // net/http would use it to repeat what was sent
	if b.source == nil {
		out.Body = http.NoBody
		return
	}
	b.current = &attempt{source: b.source}
	out.Body = b.current
}

// renew prepares another attempt. It reports whether that is possible.
func (b *body) renew() bool {
	if b.current == nil {
		return true
	}
	if b.current.revoke() {
		return true
	}
	if b.getBody == nil {
		return false
	}
	source, err := b.getBody()
	if err != nil {
		return false
	}
	b.source.Close()
	b.source = source
	return true
}

// readErr returns the error that reading the request's body met, or nil.
func (b *body) readErr() error {
	if b.current == nil {
		return nil
	}
	b.current.mu.Lock()
	defer b.current.mu.Unlock()
	return b.current.err
}

// finish lets the body be closed, once the last attempt is done with it.
func (b *body) finish() {
	switch {
	case b.source == nil:
	case b.current == nil:
		b.source.Close()
	default:
		b.current.release()
	}
}

// attempt is a request's body during one attempt to send it.
type attempt struct {
	source io.ReadCloser

	mu       sync.Mutex
	begun    bool // a read has begun
	revoked  bool // no read may begin
	closed   bool
	released bool // closing it closes the source
	err      error
}

func (a *attempt) Read(p []byte) (int, error) {
	a.mu.Lock()
	if a.revoked {
		a.mu.Unlock()
		return 0, errRevoked
	}
	a.begun = true
	a.mu.Unlock()
	n, err := a.source.Read(p)
	if err != nil && err != io.EOF {
		a.mu.Lock()
		a.err = err
		a.mu.Unlock()
	}
	return n, err
}

func (a *attempt) Close() error {
	a.mu.Lock()
	a.closed = true
	closing := a.released
	a.mu.Unlock()
	if closing {
		return a.source.Close()
	}
	return nil
}

// revoke ends the attempt and reports whether the source is as it was.
func (a *attempt) revoke() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked = true
	return !a.begun
}

// release lets the attempt close the source.
func (a *attempt) release() {
	a.mu.Lock()
	a.released = true
	closing := a.closed
	a.mu.Unlock()
	if closing {
		a.source.Close()
	}
}
