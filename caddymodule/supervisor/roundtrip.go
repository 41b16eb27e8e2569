package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// maxSends bounds how often a request is sent that never reached a worker.
const maxSends = 3

// RoundTrip sends r to the tenant's worker, which it starts first if there is
// none, and returns the answer. The caller sets r's method, path, query,
// headers and body, and must close the answer's body; r's scheme and host are
// set here. Cancelling r's context cancels the request in the worker, and a
// worker's death fails the request, or the reading of its answer, at once.
//
// RoundTrip sends r again only if it certainly never reached a worker and its
// body is unread or can be had again from r.GetBody.
//
// The error is an [*ErrUnavailable], an [*ErrDied], one with [ErrTimeout] in its
// chain, the cause of r's context, or what reading r's body returned.
func (s *Supervisor) RoundTrip(spec Spec, r *http.Request) (*http.Response, error) {
	r.URL.Scheme, r.URL.Host = "http", "sq"
	t := s.tenant(spec.Tenant)
	body := newBody(r)
	for sends := 1; ; sends++ {
		g, err := s.acquire(r.Context(), t, spec)
		if err != nil {
			body.finish()
			return nil, err
		}
		resp, err := g.send(r, body)
		if err == nil {
			body.finish()
			return resp, nil
		}
		g.leave()
		var died *ErrDied
		if !errors.As(err, &died) || !died.Unsent || sends == maxSends || !body.renew() {
			body.finish()
			return nil, err
		}
	}
}

// send sends r once. Where it succeeds, the answer's body calls g.leave.
func (g *generation) send(r *http.Request, body *body) (*http.Response, error) {
	var s sending
	s.trace.GotConn = s.gotConn
	out := r.WithContext(httptrace.WithClientTrace(r.Context(), &s.trace))
	body.attach(out)
	resp, err := g.exchange(out, body)
	if err != nil {
		return nil, g.explain(r, body, &s, err)
	}
	resp.Request = r
	if resp.Body == http.NoBody {
		g.leave()
	} else {
		resp.Body = &answer{ReadCloser: resp.Body, generation: g}
	}
	return resp, nil
}

// errAbandoned is what exchange returns where net/http does not return in time.
var errAbandoned = errors.New("it ended while the request was being sent")

// exchange is the transport's RoundTrip, but it also returns when the worker is
// gone or the request is cancelled while a read of the request's body blocks,
// for which net/http waits. That read then ends when the client's connection
// does.
func (g *generation) exchange(out *http.Request, body *body) (*http.Response, error) {
	if body.source == nil {
		return g.transport.RoundTrip(out)
	}
	type result struct {
		resp *http.Response
		err  error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := g.transport.RoundTrip(out)
		done <- result{resp, err}
	}()
	select {
	case r := <-done:
		return r.resp, r.err
	case <-g.exited:
	case <-out.Context().Done():
	}
	// An answer that was complete before is worth a moment.
	timer := time.NewTimer(settleTimeout)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.resp, r.err
	case <-timer.C:
	}
	go func() {
		if r := <-done; r.err == nil {
			r.resp.Body.Close()
		}
	}()
	return nil, errAbandoned
}

// explain turns the transport's error into one of RoundTrip's.
func (g *generation) explain(r *http.Request, body *body, s *sending, err error) error {
	if r.Context().Err() != nil {
		return context.Cause(r.Context())
	}
	if err := body.readErr(); err != nil {
		return err
	}
	id := g.tenant.id
	sent, connected := s.outcome()
	if !connected {
		var op *net.OpError
		switch {
		case gone(err), err == errAbandoned:
			// It ends without having been told to, and its exit is not seen
			// yet. The next attempt waits for it.
			g.tenant.lost(g)
			return &ErrDied{Tenant: id, Unsent: true, Err: err}
		case errors.As(err, &op):
			return &ErrUnavailable{Tenant: id, RetryAfter: time.Second, Err: err}
		}
		return fmt.Errorf("request for the worker of tenant %s: %w", id, err)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("worker of tenant %s: %w: %w", id, ErrTimeout, err)
	}
	died := &ErrDied{Tenant: id, Unsent: !sent, Err: err}
	g.settle(r.Context())
	return died
}

// settleTimeout is far more than a process needs from closing its connections
// until it is gone.
const settleTimeout = 100 * time.Millisecond

// settle waits until it is known whether a broken connection was the worker's
// death. The kernel closes a dying process's connections one by one, and the
// caller's next request must not meet one that is still open.
func (g *generation) settle(ctx context.Context) {
	timer := time.NewTimer(settleTimeout)
	defer timer.Stop()
	select {
	case <-g.exited:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// lost tells g to end, since it takes no connections any more.
func (t *tenant) lost(g *generation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current == g {
		g.drainLocked("refused connections")
	}
}

// sending watches one request on its way to the worker.
type sending struct {
	trace httptrace.ClientTrace

	mu     sync.Mutex
	conn   *conn // that it was given last, or nil
	before int64 // conn.writes when it was given
	sent   bool  // on a connection before that: net/http repeats reads by itself
}

func (s *sending) gotConn(info httptrace.GotConnInfo) {
	sent, _ := s.outcome()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = sent
	s.conn = info.Conn.(*conn)
	s.before = s.conn.writes.Load()
}

// outcome reports whether anything may have been written, and whether there was
// a connection to write to. It sees to it that nothing more will be.
func (s *sending) outcome() (sent, connected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return false, false
	}
	s.conn.Close()
	return s.sent || s.conn.writes.Load() != s.before, true
}

// answer is the body of a worker's answer. Its end ends the request's stay in
// the generation.
type answer struct {
	io.ReadCloser
	generation *generation
	left       atomic.Bool
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err != nil {
		a.leave()
		if err != io.EOF {
			err = fmt.Errorf("reading the answer of the worker of tenant %s: %w", a.generation.tenant.id, err)
		}
	}
	return n, err
}

func (a *answer) Close() error {
	err := a.ReadCloser.Close()
	a.leave()
	return err
}

func (a *answer) leave() {
	if a.left.CompareAndSwap(false, true) {
		a.generation.leave()
	}
}
