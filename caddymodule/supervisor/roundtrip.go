package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// maxSends bounds how often a request is sent that never reached a worker.
const maxSends = 3

// RoundTrip sends r to the tenant's worker, which it starts first if there is
// none, and returns the answer, whose body the caller must close. Cancelling ctx
// cancels the request in the worker, and a worker's death fails the request, or the
// reading of its answer, at once.
//
// RoundTrip sends r again only if certainly no byte of it reached a worker. It
// may return while a large body is still being read, if the answer came first;
// closing the answer's body ends that.
//
// Where the worker dies while its answer is read, that returns an [*ErrDied], too.
//
// The error is an [*ErrUnavailable], an [*ErrDied], one with [ErrTimeout] in its
// chain, the cause of ctx's end, or what reading r's body returned.
func (s *Supervisor) RoundTrip(ctx context.Context, spec Spec, r *Request) (*Answer, error) {
	return s.RoundTripWhen(ctx, spec, r, nil)
}

// RoundTripWhen is RoundTrip that calls when, unless that is nil, each time before
// it sends r, with the worker ready and kept awake. An error of when is returned as
// it is, and the worker not asked.
func (s *Supervisor) RoundTripWhen(ctx context.Context, spec Spec, r *Request, when func() error) (*Answer, error) {
	ahead, more, err := readAhead(r)
	if err != nil {
		return nil, err
	}
	t := s.tenant(spec.Tenant)
	for sends := 1; ; sends++ {
		g, err := s.acquire(ctx, t, spec)
		if err != nil {
			return nil, err
		}
		if when != nil {
			if err := when(); err != nil {
				g.leave()
				return nil, err
			}
		}
		ans, err := g.send(ctx, r, ahead, more, true)
		if err == nil {
			return ans, nil
		}
		var died *ErrDied
		if !errors.As(err, &died) || !died.Unsent || sends == maxSends {
			return nil, err
		}
	}
}

// readAhead reads a small body whole, so that it can be sent again; more says
// that there is a body which is not small.
func readAhead(r *Request) (ahead []byte, more bool, err error) {
	switch {
	case r.Body == nil || r.ContentLength == 0:
		return nil, false, nil
	case r.ContentLength < 0 || r.ContentLength > smallBody:
		return nil, true, nil
	}
	ahead = make([]byte, r.ContentLength)
	n, err := io.ReadFull(r.Body, ahead)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = shortBody(int64(n), r.ContentLength)
	}
	return ahead, false, err
}

// Peek sends r, which has no body, to the tenant's worker if that is ready, and
// returns its answer, or nil if there is none. It neither wakes a worker nor
// keeps it awake.
func (s *Supervisor) Peek(ctx context.Context, spec Spec, r *Request) (*Answer, error) {
	g := s.tenant(spec.Tenant).ready.Load()
	if g == nil || !g.spec.sameWorker(spec) || !g.enter() {
		return nil, nil
	}
	return g.send(ctx, r, nil, false, false)
}

// send sends r once. The end of the exchange counts it out; use says whether it
// keeps the worker awake.
func (g *generation) send(ctx context.Context, r *Request, ahead []byte, more, use bool) (*Answer, error) {
	c, err := g.connect(ctx)
	if err != nil {
		err = g.explainConnect(ctx, err)
		g.leaveAt(use)
		return nil, err
	}
	e := &exchange{g: g, conn: c, use: use, ctx: ctx, timeout: g.super.cfg.Load().ResponseTimeout}
	err = e.start(r, ahead, more)
	// A worker that answers before it has read everything closes the connection
	// for writing, too; its answer is there to be read all the same.
	if err == nil || e.sent {
		err = e.readAnswer(r.Method)
	}
	if err != nil {
		err = e.explain(ctx, err)
		e.end(false)
		return nil, err
	}
	if e.answer.Body == http.NoBody {
		e.end(!e.answer.last)
	}
	return &e.answer, nil
}

// explainConnect turns the error of connect into one of RoundTrip's.
func (g *generation) explainConnect(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if gone(err) {
		// It ends without having been told to, and its exit is not seen yet.
		// The next attempt waits for it.
		g.tenant.lost(g)
		return &ErrDied{Tenant: g.tenant.id, Unsent: true, Err: err}
	}
	return &ErrUnavailable{Tenant: g.tenant.id, RetryAfter: time.Second, Err: err}
}

// explain turns the error of a broken exchange into one of RoundTrip's.
func (e *exchange) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if fault := e.fault(); fault != nil {
		return fault
	}
	id := e.g.tenant.id
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("worker of tenant %s: %w: %w", id, ErrTimeout, err)
	}
	e.g.settle(ctx)
	return &ErrDied{Tenant: id, Unsent: !e.sent, Err: err}
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
		g.drainLocked(reasonLost)
	}
}
