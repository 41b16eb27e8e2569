package supervisor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// maxBackoffWait is how long a request waits for a start to be allowed again
// before it is refused.
const maxBackoffWait = time.Second

// tenant is one tenant's place in the supervisor: its generation, if there is
// one, and what is remembered between generations.
type tenant struct {
	super *Supervisor
	id    string

	// ready is the generation that takes requests, or nil. It is all that a
	// request reads while nothing changes.
	ready atomic.Pointer[generation]

	mu      sync.Mutex
	current *generation // from the decision to start it until it is over, or nil
	state   State
	since   time.Time // of state; zero where the tenant was never asked for
	held    bool
	retry   backoff
	starts  int
	crashes int
	lastErr error // of the last generation that failed
	refused error // why the data directory was refused, until a worker takes one
}

// acquire returns a generation that is ready and counts the request in; the
// caller must call its leave. It starts one if need be, and waits for one that
// is starting or draining.
func (s *Supervisor) acquire(ctx context.Context, t *tenant, spec Spec) (*generation, error) {
	for {
		if g := t.ready.Load(); g != nil && g.spec.sameWorker(spec) && g.enter() {
			g.weigh(spec.CPUWeight)
			return g, nil
		}
		g, made, gone, err := s.next(t, spec)
		if err != nil {
			return nil, err
		}
		// Counted in before it is ready, so that a worker is never told to go
		// before it has served those for whom it was started.
		entered := made || g.spec.sameWorker(spec) && g.enter()
		select {
		case <-g.started:
			if entered && g.err == nil {
				return g, nil
			}
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if entered {
			g.leave()
			if err == nil && !errors.Is(g.err, errStopped) {
				err = t.unavailable(g.err)
			}
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-gone:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// next returns the generation to wait for, and what is closed when another may
// have taken its place, or it is broken. A broken one is returned only if that is
// over soon. Where there was none it is made, with the caller counted in: it may
// have failed before the caller looks.
func (s *Supervisor) next(t *tenant, spec Spec) (_ *generation, made bool, gone <-chan struct{}, _ error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held {
		return nil, false, nil, &ErrUnavailable{Tenant: t.id, RetryAfter: holdRetry, Err: ErrHeld}
	}
	if g := t.current; g != nil {
		switch wait := t.retry.remaining(s.clock.Now()); {
		case t.state == Broken && wait > maxBackoffWait:
			return nil, false, nil, &ErrUnavailable{Tenant: t.id, RetryAfter: wait, Err: t.lastErr}
		case t.state == Broken || t.state == Asleep:
			return g, false, g.over, nil
		case !g.spec.sameWorker(spec):
			// The tenant's data has moved. Serving the request from where it
			// was would read and write the wrong directory.
			g.drainLocked(reasonMoved)
		}
		return g, false, g.exited, nil
	}
	// Close sets closing before it visits the tenants, each under its lock, so
	// that it meets every generation made here.
	if s.closing.Load() {
		return nil, false, nil, &ErrUnavailable{Tenant: t.id, Err: errClosing}
	}
	if err := s.joinQueue(); err != nil {
		return nil, false, nil, &ErrUnavailable{Tenant: t.id, RetryAfter: s.comeBack(), Err: err}
	}
	g := newGeneration(s, t, spec)
	t.current = g
	g.enterLocked(Starting, reasonRequest, nil)
	g.enter()
	go g.run()
	return g, true, g.exited, nil
}

func (t *tenant) unavailable(err error) error {
	if errors.Is(err, errQueueTimeout) {
		return &ErrUnavailable{Tenant: t.id, RetryAfter: t.super.comeBack(), Err: err}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return &ErrUnavailable{Tenant: t.id, RetryAfter: t.retry.remaining(t.super.clock.Now()), Err: err}
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

// adjust has the tenant's generation look at the idle timeout again.
func (t *tenant) adjust() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil {
		select {
		case t.current.adjust <- struct{}{}:
		default: // it is about to
		}
	}
}
