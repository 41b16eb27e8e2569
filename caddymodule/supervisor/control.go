package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrHeld is why a tenant that is held down has no worker.
var ErrHeld = errors.New("the tenant is held down until it is released")

// holdRetry is when those may ask again who met a tenant that is held: nobody
// knows for how long it will be.
const holdRetry = 30 * time.Second

// Stop tells the tenant's worker to finish its requests, write its checkpoints
// and exit, and waits until it is gone or ctx is done; the worker goes in
// either case, by force after [Config.DrainTimeout]. Requests that arrive
// meanwhile wait and then start the next worker. It is no error if there is
// no worker.
func (s *Supervisor) Stop(ctx context.Context, id string) error {
	v, ok := s.tenants.Load(id)
	if !ok {
		return nil
	}
	return v.(*tenant).stop(ctx, reasonStop)
}

// Park is Stop at an operator's wish. Where hold is set no request starts the
// next worker, but is refused with [ErrHeld], until Release. What is held is
// forgotten when the supervisor ends.
func (s *Supervisor) Park(ctx context.Context, id string, hold bool) error {
	t := s.tenant(id)
	if hold {
		t.mu.Lock()
		t.held = true
		t.mu.Unlock()
	}
	return t.stop(ctx, reasonPark)
}

// Release lets requests start the tenant's worker again.
func (s *Supervisor) Release(id string) {
	if v, ok := s.tenants.Load(id); ok {
		t := v.(*tenant)
		t.mu.Lock()
		t.held = false
		t.mu.Unlock()
	}
}

// Restart ends the tenant's worker, if there is one, and starts another, in spite
// of any backoff. It returns once that is ready, with the errors of RoundTrip
// where it does not become so.
func (s *Supervisor) Restart(ctx context.Context, spec Spec) error {
	t := s.tenant(spec.Tenant)
	if err := t.stop(ctx, reasonRestart); err != nil {
		return err
	}
	t.mu.Lock()
	if t.state == Broken {
		t.retry.until = time.Time{}
		select {
		case t.current.retry <- struct{}{}:
		default:
		}
	}
	t.mu.Unlock()
	g, err := s.acquire(ctx, t, spec)
	if err != nil {
		return err
	}
	g.leave()
	return nil
}

// Weigh gives the tenant's worker another cpu.weight against the others, at once;
// 0 is what is usual.
func (s *Supervisor) Weigh(id string, weight int) {
	v, ok := s.tenants.Load(id)
	if !ok {
		return
	}
	t := v.(*tenant)
	t.mu.Lock()
	g := t.current
	t.mu.Unlock()
	if g != nil {
		g.weigh(weight)
	}
}

func (t *tenant) stop(ctx context.Context, reason string) error {
	g := t.askDrain(reason)
	if g == nil {
		return nil
	}
	select {
	case <-g.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the worker of tenant %s to end: %w", t.id, context.Cause(ctx))
	}
}
