package supervisor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// maxBackoffWait is how long a request waits for a start to be allowed again
// before it is refused.
const maxBackoffWait = time.Second

// tenant is one tenant's place in the supervisor: its generation, if there is
// one, and what is remembered between generations.
type tenant struct {
	id     string
	logger *zap.Logger

	// ready is the generation that takes requests, or nil. It is all that a
	// request reads while nothing changes.
	ready atomic.Pointer[generation]

	mu      sync.Mutex
	current *generation // the process that exists or is being made, or nil
	retry   backoff
	starts  int
	crashes int
	lastErr error // of the last generation that failed
}

// acquire returns a generation that is ready and counts the request in; the
// caller must call its leave. It starts one if need be, and waits for one that
// is starting or draining.
func (s *Supervisor) acquire(ctx context.Context, t *tenant, spec Spec) (*generation, error) {
	for {
		if g := t.ready.Load(); g != nil && g.spec == spec && g.enter() {
			return g, nil
		}
		g, wait, err := s.next(t, spec)
		switch {
		case err != nil:
			return nil, err
		case g == nil: // backing off, and not for long
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil, context.Cause(ctx)
			}
			continue
		}
		select {
		case <-g.started:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if g.err != nil && g.spec == spec && !errors.Is(g.err, errStopped) {
			return nil, t.unavailable(g.err)
		}
		if g.spec == spec && g.enter() {
			return g, nil
		}
		select {
		case <-g.exited:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// next returns the generation to wait for, after starting it if there was none,
// or else how long no start is allowed.
func (s *Supervisor) next(t *tenant, spec Spec) (*generation, time.Duration, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g := t.current; g != nil {
		if g.spec != spec {
			// The tenant's data has moved. Serving the request from where it
			// was would read and write the wrong directory.
			g.drainLocked("moved")
		}
		return g, 0, nil
	}
	// Close sets closing before it visits the tenants, each under its lock, so
	// that it meets every generation made here.
	if s.closing.Load() {
		return nil, 0, &ErrUnavailable{Tenant: t.id, Err: errClosing}
	}
	if wait := t.retry.remaining(time.Now()); wait > maxBackoffWait {
		return nil, 0, &ErrUnavailable{Tenant: t.id, RetryAfter: wait, Err: t.lastErr}
	} else if wait > 0 {
		return nil, wait, nil
	}
	g := newGeneration(s, t, spec)
	t.current = g
	t.starts++
	go g.run()
	return g, 0, nil
}

func (t *tenant) unavailable(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &ErrUnavailable{Tenant: t.id, RetryAfter: t.retry.remaining(time.Now()), Err: err}
}

// askDrain tells the tenant's generation to end and returns it, or nil.
func (t *tenant) askDrain(reason string) *generation {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil {
		t.current.drainLocked(reason)
	}
	return t.current
}
