package supervisor

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

// errStopped is why a generation that was told to end never started.
var errStopped = errors.New("told to end before it started")

// gateClosed is added to a generation's count of requests to close its gate. No
// number of requests lifts the sum above zero again.
const gateClosed = math.MinInt64 / 2

// generation is one worker process of a tenant, from the decision to start it
// until it is gone. One goroutine, run, takes it through its states.
type generation struct {
	super           *Supervisor
	tenant          *tenant
	spec            Spec
	socket          string
	responseTimeout time.Duration
	pool            pool
	asked           time.Time // for the start

	started chan struct{} // closed once it is ready or err is set
	err     error         // why it never became ready; valid once started is closed
	exited  chan struct{} // closed once the process is gone, before its successor
	drain   chan struct{} // closed to tell it to end

	// requests counts those in flight, plus gateClosed once no more may enter.
	requests atomic.Int64
	idle     chan struct{} // closed once the gate is closed and they have left
	idleOnce sync.Once

	// Guarded by tenant.mu.
	state   State
	process *process
	readyAt time.Time
	drained string // why it was told to end, or ""
	killed  bool
}

func newGeneration(s *Supervisor, t *tenant, spec Spec) *generation {
	cfg := s.cfg.Load()
	return &generation{
		super:           s,
		tenant:          t,
		spec:            spec,
		socket:          socketPath(cfg.RunDir, spec.Tenant),
		responseTimeout: cfg.ResponseTimeout,
		asked:           time.Now(),
		started:         make(chan struct{}),
		exited:          make(chan struct{}),
		drain:           make(chan struct{}),
		idle:            make(chan struct{}),
		state:           Starting,
	}
}

// enter counts a request in, unless the gate is closed.
func (g *generation) enter() bool {
	if g.requests.Add(1) > 0 {
		return true
	}
	g.leave()
	return false
}

func (g *generation) leave() {
	if g.requests.Add(-1) == gateClosed {
		g.idleOnce.Do(func() { close(g.idle) })
	}
}

// closeGate lets no more requests enter. It must be called once.
func (g *generation) closeGate() {
	g.tenant.ready.CompareAndSwap(g, nil)
	if g.requests.Add(gateClosed) == gateClosed {
		g.idleOnce.Do(func() { close(g.idle) })
	}
}

// drainLocked tells the generation to end. tenant.mu must be held.
func (g *generation) drainLocked(reason string) {
	if g.drained != "" {
		return
	}
	g.drained = reason
	if g.state == Ready {
		g.state = Draining
		g.closeGate()
	}
	close(g.drain)
}

// kill ends the process, or the one about to be made.
func (g *generation) kill() {
	g.tenant.mu.Lock()
	defer g.tenant.mu.Unlock()
	g.killed = true
	if g.process != nil {
		g.process.kill()
	}
}

func (g *generation) pid() int {
	g.tenant.mu.Lock()
	defer g.tenant.mu.Unlock()
	if g.process == nil {
		return 0
	}
	return g.process.pid
}

// run is the life of the generation.
func (g *generation) run() {
	p, err := g.start()
	if err != nil {
		g.err = err
		g.finish(p)
		return
	}
	g.becomeReady(p)
	select {
	case <-p.exited:
	case <-g.drain:
		g.end(p)
	}
	g.finish(p)
}

// start makes the process and waits until it is ready. On error the process, if
// there was one, is gone.
func (g *generation) start() (*process, error) {
	select {
	case g.super.slots <- struct{}{}:
		defer func() { <-g.super.slots }()
	case <-g.drain:
		return nil, errStopped
	}
	cfg := g.super.cfg.Load()
	p, err := spawn(cfg, g.socket, g.spec, g.tenant.logger)
	if err != nil {
		return nil, err
	}
	g.super.metrics.starts.Inc()
	g.super.metrics.running.Inc()
	g.tenant.mu.Lock()
	g.process = p
	if g.killed {
		p.kill()
	}
	g.tenant.mu.Unlock()

	line, err := p.awaitReady(cfg.StartTimeout)
	if err == nil && line == wire.Ready {
		return p, nil
	}
	switch {
	case err == nil:
		err = errors.New(line)
		if reason, ok := strings.CutPrefix(line, wire.Refused); ok {
			err = fmt.Errorf("%w: %s", ErrRefused, reason)
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("not ready after %v", cfg.StartTimeout)
		p.kill()
	}
	// One that has said why it cannot serve, or nothing, is about to end by
	// itself, but must not take for ever.
	p.endWithin(cfg.DrainTimeout)
	return p, fmt.Errorf("starting the worker: %w: %s", err, p.obituary())
}

func (g *generation) becomeReady(p *process) {
	took := time.Since(g.asked)
	g.super.metrics.startSeconds.Observe(took.Seconds())
	t := g.tenant
	t.mu.Lock()
	g.readyAt = time.Now()
	if g.drained == "" {
		g.state = Ready
		t.ready.Store(g)
	} else {
		g.state = Draining
		g.closeGate()
	}
	t.mu.Unlock()
	t.logger.Info("worker is ready", zap.Int("pid", p.pid), zap.Duration("took", took))
	close(g.started)
}

// end drains the process. The gate is closed already.
func (g *generation) end(p *process) {
	timeout := g.super.cfg.Load().DrainTimeout
	// A request that has entered may not have been sent yet, and the worker
	// would refuse its connection from now on: let those in flight pass. A
	// long answer must not hold everything up: the worker itself ends those
	// within its own time.
	select {
	case <-g.idle:
	case <-time.After(timeout / 4):
	case <-p.exited:
		return
	}
	// A connection that was made and never used looks busy to the worker's HTTP
	// server, which would wait for seconds whether something comes.
	g.pool.close()
	if p.endWithin(timeout - timeout/4) {
		g.tenant.logger.Error("worker did not end in time and was killed", zap.Int("pid", p.pid), zap.Duration("drain_timeout", timeout))
	}
}

// finish frees the tenant for its next generation. p is nil if there was no
// process; else it is gone.
func (g *generation) finish(p *process) {
	t := g.tenant
	now := time.Now()
	var ran time.Duration
	reason := ""
	if p != nil {
		p.closeLifeline()
		os.Remove(g.socket) // before a successor binds the same path
		g.super.metrics.running.Dec()
		reason = p.exitReason()
		g.super.metrics.exits.WithLabelValues(reason).Inc()
	}
	// Those of requests that are still being answered stay: what the worker
	// wrote before it died can be read to its end.
	g.pool.close()

	t.mu.Lock()
	if !g.readyAt.IsZero() {
		ran = now.Sub(g.readyAt)
	}
	drained := g.drained
	expected := errors.Is(g.err, errStopped) || drained != "" && g.err == nil && reason != exitCrashed
	if expected {
		t.retry.ended(ran)
	} else {
		t.retry.failed(now, ran)
		t.crashes++
		t.lastErr = g.err
		if g.err == nil {
			t.lastErr = fmt.Errorf("worker ended: %s", p.obituary())
		}
	}
	wait := t.retry.remaining(now)
	lastErr := t.lastErr
	if g.state != Draining {
		g.state = Draining
		g.closeGate()
	}
	t.mu.Unlock()

	switch {
	case !expected:
		t.logger.Error("worker failed", zap.Error(lastErr), zap.Duration("ran", ran), zap.Duration("backoff", wait))
	case p != nil:
		t.logger.Info("worker ended", zap.Int("pid", p.pid), zap.String("asked_by", drained), zap.String("reason", reason), zap.Duration("ran", ran))
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	t.current = nil
	close(g.exited) // before a successor can be made
	if g.err != nil {
		close(g.started)
	}
}
