package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/semaphore"
)

// errQueueTimeout is why a start was given up whose turn did not come, which is
// no fault of the worker.
var errQueueTimeout = errors.New("the box is busy starting other tenants' workers")

// Why a start was refused, as the label reason of sq_worker_starts_refused_total.
const (
	refusedFull    = "full"    // as many as max_queue waited already
	refusedTimeout = "timeout" // its turn did not come within queue_timeout
)

// startLimit lets a number of workers be starting at once.
type startLimit struct {
	n   int
	sem *semaphore.Weighted
}

func newStartLimit(n int) *startLimit {
	return &startLimit{n, semaphore.NewWeighted(int64(n))}
}

// joinQueue counts a start in that has to wait for its turn, unless too many
// wait. One tenant's start is one, however many of its requests wait for it.
func (s *Supervisor) joinQueue() error {
	limit := s.cfg.Load().MaxQueue
	if s.queued.Add(1) <= int64(limit) {
		return nil
	}
	s.queued.Add(-1)
	s.metrics.refused.WithLabelValues(refusedFull).Inc()
	return fmt.Errorf("%d workers wait to be started already, which is max_queue", limit)
}

// comeBack is when a request whose start was refused may be made again: some time
// within QueueTimeout, left to chance, so that those who are refused together do not
// come back together.
func (s *Supervisor) comeBack() time.Duration {
	return 1 + rand.N(s.cfg.Load().QueueTimeout)
}

// awaitTurn waits for a place among the workers, which finish gives back, and
// then for one among those that are starting, which the caller gives back by
// done.
func (g *generation) awaitTurn() (done func(), err error) {
	s := g.super
	defer s.queued.Add(-1)
	timeout := s.cfg.Load().QueueTimeout
	ctx, cancel := context.WithCancelCause(g.told)
	defer cancel(nil)
	timer := s.clock.AfterFunc(timeout, func() { cancel(errQueueTimeout) })
	defer timer.Stop()

	starts := s.starts.Load()
	err = s.room.take(ctx)
	if err == nil {
		g.hasRoom = true
		err = starts.sem.Acquire(ctx, 1)
	}
	switch {
	case err == nil:
		return func() { starts.sem.Release(1) }, nil
	case g.told.Err() != nil:
		return nil, errStopped
	default:
		s.metrics.refused.WithLabelValues(refusedTimeout).Inc()
		return nil, fmt.Errorf("%w: no turn to start within the queue_timeout of %v", errQueueTimeout, timeout)
	}
}
