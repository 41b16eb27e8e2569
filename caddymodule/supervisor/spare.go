package supervisor

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/cgroup"
	"github.com/sqedge/sqedge/caddymodule/owners"
)

// spares are worker processes that were started ahead and wait to be assigned: a
// tenant's start that takes one has the better half of its work done already. A
// spare belongs to nobody and has no state. It has read nothing but its own binary, and
// has only begun its jail. It is assigned once and never comes back.
//
// They are filled up by one goroutine, one at a time, and only while nobody starts:
// what many who wake at once need is the processors.
type spares struct {
	super    *Supervisor
	starting atomic.Int64   // starts under way, those that wait for their turn included
	wake     chan struct{}  // signalled where there may be something to fill up
	ended    sync.WaitGroup // those that are told to end
	gone     chan struct{}  // closed once the supervisor is, and they are gone

	mu     sync.Mutex
	want   int
	idle   []*spare // the one started last is taken first
	failed bool     // one could not be started or has died; no more until a tenant's worker has started
}

// spare is one of them.
type spare struct {
	*process
	image image
	taken chan struct{} // closed once it is not in idle any more
}

// resize sets how many there are to be, at once.
func (s *spares) resize(want int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.want = want
	for i, sp := range slices.Backward(s.idle) {
		if i >= want {
			s.endLocked(sp)
		}
	}
	s.signal()
}

// refresh ends those that run another image, and has what could not be started
// before be tried again.
func (s *spares) refresh(as image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = false
	for _, sp := range slices.Backward(s.idle) {
		if sp.image != as {
			s.endLocked(sp)
		}
	}
	s.signal()
}

// take returns a spare that runs the image, or nil. Those that run another are
// ended.
func (s *spares) take(as image) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range slices.Backward(s.idle) {
		if sp.image == as {
			s.removeLocked(sp)
			return sp.process
		}
		s.endLocked(sp)
	}
	return nil
}

// count returns how many there are.
func (s *spares) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.idle)
}

// startBegins and startEnds are called around each start of a tenant's worker.
func (s *spares) startBegins() { s.starting.Add(1) }

func (s *spares) startEnds(started bool) {
	if started {
		s.mu.Lock()
		s.failed = false
		s.mu.Unlock()
	}
	if s.starting.Add(-1) == 0 {
		s.signal()
	}
}

func (s *spares) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // it is about to look
	}
}

// rest is how long there must have been no start before spares are filled up: those
// who wake at once do not all begin in the same moment.
const rest = 20 * time.Millisecond

// run fills up until the supervisor is closed, and ends the spares then.
func (s *spares) run() {
	var rested <-chan time.Time
	for {
		select {
		case <-s.wake:
			rested = s.super.clock.After(rest)
		case <-rested:
			for s.lacks() {
				s.add()
			}
		case <-s.super.closed:
			s.resize(0)
			s.ended.Wait()
			close(s.gone)
			return
		}
	}
}

// lacks reports whether one more is to be started now.
func (s *spares) lacks() bool {
	if s.starting.Load() > 0 || s.super.closing.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.idle) < s.want && !s.failed
}

// add starts one, and waits until it has nothing to do any more.
func (s *spares) add() {
	cfg := s.super.cfg.Load()
	as := imageOf(cfg) // before the process is made, so that it is never newer
	p, err := launch(as, nil, 0, nil, s.super.logger)
	if err == nil {
		stop := s.killAtClose(p)
		err = p.awaitStandby(cfg.StartTimeout)
		stop()
		if err != nil {
			p.abandon()
			err = fmt.Errorf("%w: %s", err, p.obituary())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failLocked("a spare worker cannot be started; no other is tried until a tenant's worker has started", err)
		return
	}
	if len(s.idle) >= s.want || imageOf(s.super.cfg.Load()) != as { // by now
		s.ended.Go(p.abandon)
		return
	}
	sp := &spare{p, as, make(chan struct{})}
	s.idle = append(s.idle, sp)
	go s.watch(sp)
}

// killAtClose has Close not wait for a process that may say nothing for long.
func (s *spares) killAtClose(p *process) (stop func()) {
	done := make(chan struct{})
	go func() {
		select {
		case <-s.super.closed:
			p.kill()
		case <-done:
		}
	}()
	return func() { close(done) }
}

// watch waits for a spare's death as long as it is one.
func (s *spares) watch(sp *spare) {
	select {
	case <-sp.taken:
		return
	case <-sp.exited:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.idle, sp) {
		s.removeLocked(sp)
		s.failLocked("a spare worker ended by itself; it is replaced once a tenant's worker has started", fmt.Errorf("%s", sp.obituary()))
		sp.release()
	}
}

func (s *spares) failLocked(what string, err error) {
	if !s.failed && !s.super.closing.Load() {
		s.super.logger.Error(what, zap.Error(err))
	}
	s.failed = true
}

func (s *spares) removeLocked(sp *spare) {
	s.idle = slices.DeleteFunc(s.idle, func(other *spare) bool { return other == sp })
	close(sp.taken)
}

// endLocked ends a spare, which has nothing to do for that.
func (s *spares) endLocked(sp *spare) {
	s.removeLocked(sp)
	s.ended.Go(sp.abandon)
}

// sparesFor returns how many spares cfg asks for. There are none where a process that
// is started for its tenant serves sooner, being in its group from the beginning, or
// must be, having a user of its own.
func sparesFor(cfg *Config) int {
	if cfg.UIDs != (owners.Range{}) || cfg.Groups != nil && cgroup.StartsInside() {
		return 0
	}
	return cfg.SpareWorkers
}
