package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/cgroup"
	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/wire"
)

// errStopped is why a generation that was told to end never started.
var errStopped = errors.New("told to end before it started")

// generation is one worker process of a tenant, from the decision to start it
// until its tenant may have another. One goroutine, run, takes it through its
// states.
type generation struct {
	super  *Supervisor
	tenant *tenant
	spec   Spec
	logger *zap.Logger
	socket string // valid once started is closed
	pool   pool
	asked  time.Time // for the start

	started chan struct{} // closed once it is ready or err is set
	err     error         // why it never became ready; valid once started is closed
	exited  chan struct{} // closed once the process is gone
	over    chan struct{} // closed once a successor may be made; later than exited where it is broken

	// told is done once the generation is told to end; tell does that.
	told context.Context
	tell context.CancelFunc

	adjust chan struct{} // signalled where the idle timeout may have changed
	retry  chan struct{} // signalled to end a backoff early

	// requests counts those in flight and those that wait for the start, plus
	// gateClosed once no more may enter.
	requests  atomic.Int64
	lastLeave atomic.Int64  // when requests last fell to zero: Unix time in nanoseconds
	idle      chan struct{} // closed once the gate is closed and they have left
	idleOnce  sync.Once

	// Guarded by tenant.mu.
	process *process
	launch  launched     // of process
	weight  atomic.Int64 // of process's group; it changes under tenant.mu
	readyAt time.Time
	drained string // why it was told to end, or ""
	killed  bool
	untold  []Transition

	yields atomic.Bool // to others, since it uses too much

	// For balance alone.
	spent    time.Duration // what the process had used of the processors
	use      float64       // of them, of late
	settling bool          // not all its threads may know whether they yield

	// For the owner alone.
	backoff time.Duration // of a broken one
	owner   string        // the id that its worker says the data directory has, "" for none
	hasRoom bool          // a place of super.room

	parkedForRoom bool // guarded by super.room.mu
}

func newGeneration(s *Supervisor, t *tenant, spec Spec) *generation {
	g := &generation{
		super:   s,
		tenant:  t,
		spec:    spec,
		logger:  s.logger.With(zap.String("tenant", t.id)),
		asked:   s.clock.Now(),
		started: make(chan struct{}),
		exited:  make(chan struct{}),
		over:    make(chan struct{}),
		idle:    make(chan struct{}),
		adjust:  make(chan struct{}, 1),
		retry:   make(chan struct{}, 1),
	}
	g.weight.Store(int64(spec.CPUWeight))
	g.told, g.tell = context.WithCancel(context.Background())
	return g
}

// run is the life of the generation.
func (g *generation) run() {
	g.report()
	g.super.spares.startBegins()
	p, err := g.start()
	if err != nil {
		g.err = err
	} else {
		g.becomeReady(p)
	}
	g.super.spares.startEnds(err == nil)
	if err == nil {
		g.keepOwner()
		g.serve(p)
	}
	if g.finish(p) {
		g.heal()
	}
	g.free()
}

// start makes the process and waits until it is ready. On error the process, if
// there was one, is gone.
func (g *generation) start() (*process, error) {
	done, err := g.awaitTurn()
	if err != nil {
		return nil, err
	}
	defer done()
	cfg, t := g.super.cfg.Load(), g.tenant
	t.mu.Lock()
	t.starts++
	t.mu.Unlock()
	g.socket = socketPath(cfg.RunDir, g.spec.Tenant)
	as := launchOf(cfg) // before the process is made, so that it is never newer
	p, err := g.super.spawn(cfg, as.image, g.socket, g.spec, cfg.Owners.ID(t.id), g.logger)
	if err != nil {
		return nil, err
	}
	g.super.metrics.starts.Inc()
	g.super.metrics.running.Inc()
	t.mu.Lock()
	g.process, g.launch = p, as
	g.weighLocked()
	if g.killed {
		p.kill()
	}
	t.mu.Unlock()

	line, err := p.awaitReady(cfg.StartTimeout)
	if word, owner, _ := strings.Cut(line, " "); err == nil && word == wire.Ready {
		g.owner = owner
		return p, nil
	}
	switch {
	case err == nil:
		err = errors.New(line)
		if reason, ok := strings.CutPrefix(line, wire.Refused); ok {
			err = fmt.Errorf("%w: %s", ErrRefused, reason)
		} else if reason, ok := strings.CutPrefix(line, wire.Absent); ok {
			err = fmt.Errorf("%w: %s: if this directory is to be the tenant's from now on, POST …/admin/tenants/%s/adopt", ErrAbsent, reason, t.id)
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("not ready after %v", cfg.StartTimeout)
		p.kill()
	}
	// One that has said why it cannot serve, or nothing, is about to end by
	// itself, but must not take for ever.
	p.endWithin(g.super.clock, cfg.DrainTimeout)
	return p, fmt.Errorf("starting the worker: %w: %s", err, p.obituary())
}

func (g *generation) becomeReady(p *process) {
	t, now := g.tenant, g.super.clock.Now()
	g.super.metrics.startSeconds.Observe(now.Sub(g.asked).Seconds())
	t.mu.Lock()
	g.readyAt = now
	t.refused = nil
	g.lastLeave.Store(now.UnixNano())
	if g.drained == "" {
		g.enterLocked(Ready, reasonStarted, nil)
		t.ready.Store(g)
	} else {
		g.enterLocked(Draining, g.drained, nil)
	}
	t.mu.Unlock()
	close(g.started)
	g.super.room.add(g)
	g.report()
	// Options that changed before the process was there to be seen.
	if g.launch != launchOf(g.super.cfg.Load()) {
		t.askDrain(reasonRoll)
	}
}

// cpuWeight is the weight against other workers, 0 made what it stands for.
func (g *generation) cpuWeight() float64 {
	return float64(cmp.Or(g.weight.Load(), cgroup.DefaultWeight))
}

// weigh gives the worker's group another weight, which almost always it has
// already.
func (g *generation) weigh(weight int) {
	if g.weight.Load() == int64(weight) {
		return
	}
	g.tenant.mu.Lock()
	defer g.tenant.mu.Unlock()
	g.weight.Store(int64(weight))
	g.weighLocked()
}

func (g *generation) weighLocked() {
	if g.process == nil || g.process.group == nil {
		return
	}
	if err := g.process.group.SetCPUWeight(int(g.weight.Load())); err != nil {
		g.logger.Error("the worker's weight is not changed", zap.Error(err))
	}
}

// keepOwner has what a worker has found or made of its data directory's id
// recorded, after it serves: what a crash keeps from being recorded is only taken
// as it is once more.
func (g *generation) keepOwner() {
	if g.owner == "" {
		return
	}
	if err := g.super.cfg.Load().Owners.SetID(g.tenant.id, g.owner); err != nil && !errors.Is(err, owners.ErrReadOnly) { // which was said once
		g.logger.Error("the id of the tenant's data directory is not kept; until it is, an emptied directory is taken for a new one", zap.Error(err))
	}
}

// serve lets the worker serve until it is gone, by itself or because it was told
// to end.
func (g *generation) serve(p *process) {
	for {
		left, never := g.untilIdle()
		if !never && left <= 0 && g.parkIfIdle(reasonIdle) {
			never = true
		}
		var timeout <-chan time.Time
		stop := func() bool { return true }
		if !never {
			timer := g.super.clock.NewTimer(max(left, time.Millisecond))
			timeout, stop = timer.Chan(), timer.Stop
		}
		select {
		case <-p.exited:
			stop()
			return
		case <-g.told.Done():
			stop()
			g.report()
			g.end(p)
			return
		case <-timeout:
		case <-g.adjust:
			stop()
		}
	}
}

// untilIdle returns when the worker may at the earliest have been idle for the
// idle timeout; never is set where there is none.
func (g *generation) untilIdle() (left time.Duration, never bool) {
	timeout := g.super.cfg.Load().IdleTimeout
	if timeout <= 0 {
		return 0, true
	}
	if g.requests.Load() > 0 {
		return timeout, false
	}
	return timeout - g.super.clock.Since(time.Unix(0, g.lastLeave.Load())), false
}

// end drains the process. The gate is closed already.
func (g *generation) end(p *process) {
	timeout := g.super.cfg.Load().DrainTimeout
	// A request that has entered may not have been sent yet, and the worker
	// would refuse its connection from now on: let those in flight pass. A
	// long answer must not hold everything up: the worker itself ends those
	// within its own time.
	timer := g.super.clock.NewTimer(timeout / 4)
	defer timer.Stop()
	select {
	case <-g.idle:
	case <-timer.Chan():
	case <-p.exited:
		return
	}
	// A connection that was made and never used looks busy to the worker's HTTP
	// server, which would wait for seconds whether something comes.
	g.pool.close()
	if p.endWithin(g.super.clock, timeout-timeout/4) {
		g.logger.Error("worker did not end in time and was killed", zap.Int("pid", p.pid), zap.Duration("drain_timeout", timeout))
	}
}

// finish notes the end of the process, which is gone; p is nil if there was
// none. It reports whether the worker is broken.
func (g *generation) finish(p *process) (broken bool) {
	t := g.tenant
	now := g.super.clock.Now()
	var ran time.Duration
	exit := ""
	if p != nil {
		p.closeLifeline()
		os.Remove(g.socket) // before a successor binds the same path
		g.super.metrics.running.Dec()
		exit = p.exitReason()
		g.super.metrics.exits.WithLabelValues(exit).Inc()
	}
	// Those of requests that are still being answered stay: what the worker
	// wrote before it died can be read to its end.
	g.pool.close()
	if g.hasRoom {
		g.super.room.giveBack(g)
	}

	t.mu.Lock()
	if !g.readyAt.IsZero() {
		ran = now.Sub(g.readyAt)
	}
	if g.drained == "" {
		g.closeGate()
	}
	switch {
	case errors.Is(g.err, errStopped):
		g.enterLocked(Asleep, g.drained, nil)
	case errors.Is(g.err, errQueueTimeout):
		g.enterLocked(Asleep, reasonQueue, nil)
	case g.err == nil && g.drained != "" && exit != exitCrashed && exit != exitOOM:
		t.retry.ended(ran)
		g.enterLocked(Asleep, exit, nil)
	default:
		broken = true
		t.retry.failed(now, ran)
		g.backoff = t.retry.remaining(now)
		t.crashes++
		reason := reasonNoStart
		t.lastErr = g.err
		if g.err == nil {
			reason = reasonCrash
			t.lastErr = fmt.Errorf("worker ended: %s", p.obituary())
		}
		if exit == exitOOM {
			reason = reasonOOM
		}
		if errors.Is(g.err, ErrRefused) || errors.Is(g.err, ErrAbsent) {
			t.refused = g.err
		}
		g.enterLocked(Broken, reason, t.lastErr)
	}
	g.process, g.readyAt = nil, time.Time{}
	t.mu.Unlock()
	close(g.exited) // before a successor can be made
	if g.err != nil {
		close(g.started)
	}
	g.report()
	return broken
}

// heal waits until the tenant's worker may be started again.
func (g *generation) heal() {
	reason := reasonHealed
	g.tenant.mu.Lock()
	wait := g.tenant.retry.remaining(g.super.clock.Now())
	g.tenant.mu.Unlock()
	timer := g.super.clock.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.Chan():
	case <-g.retry:
		reason = reasonRestart
	case <-g.super.closed:
		reason = reasonClosing
	}
	g.tenant.mu.Lock()
	g.enterLocked(Asleep, reason, nil)
	g.tenant.mu.Unlock()
	g.report()
}

// free lets the tenant have its next generation, after all was told of this one.
func (g *generation) free() {
	g.tenant.mu.Lock()
	defer g.tenant.mu.Unlock()
	g.tell() // frees the context
	g.tenant.current = nil
	close(g.over)
}
