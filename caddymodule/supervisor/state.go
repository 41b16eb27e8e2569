package supervisor

import (
	"time"

	"go.uber.org/zap"
)

// State says what a tenant's worker is doing.
type State string

// The states of a tenant's worker.
const (
	Asleep   State = "asleep"   // no process; the next request starts one
	Starting State = "starting" // waiting for its turn, or for the worker to be ready
	Ready    State = "ready"
	Draining State = "draining" // finishing; requests wait for the next one
	Broken   State = "broken"   // it failed, and may not be started again yet
)

// moves are all pairs of states that follow each other; README.md has them as a
// picture.
var moves = [][2]State{
	{Asleep, Starting},
	{Starting, Ready}, {Starting, Draining}, {Starting, Asleep}, {Starting, Broken},
	{Ready, Draining}, {Ready, Broken},
	{Draining, Asleep}, {Draining, Broken},
	{Broken, Asleep},
}

// Why a worker changes its state, as [Transition.Reason]. One that was told to
// end becomes asleep with the reason of its exit.
const (
	reasonRequest = "request" // a request came, and nobody was there
	reasonStarted = "started"
	reasonIdle    = "idle"          // for [Config.IdleTimeout]
	reasonRoom    = "room"          // another tenant's worker needs its place
	reasonMoved   = "moved"         // the tenant's data has another directory now
	reasonLost    = "unreachable"   // it refuses connections
	reasonQueue   = "queue"         // its turn to start did not come in time
	reasonNoStart = "start failed"  // see the line's error
	reasonCrash   = "crashed"       // likewise
	reasonOOM     = "out of memory" // the kernel ended it: it needed more than its group may have
	reasonClosing = "shutdown"
	reasonStop    = "stop" // the tenant is served no more, or elsewhere
	reasonPark    = "park" // an operator's wish, as the next two
	reasonRestart = "restart"
	reasonRoll    = "roll"         // or its binary or options are not those of new workers
	reasonHealed  = "backoff over" // the next request may start it
)

// Transition is one change of a worker's state.
type Transition struct {
	Tenant   string
	From, To State
	Reason   string
	Duration time.Duration // spent in From; 0 where the tenant was never asked for before
	PID      int           // of the worker's process, 0 where there is none
	Err      error         // why it is broken, else nil; may hold paths
}

// enterLocked changes the generation's state; report tells of it. tenant.mu must
// be held.
func (g *generation) enterLocked(to State, reason string, err error) {
	t, now := g.tenant, g.super.clock.Now()
	tr := Transition{Tenant: t.id, From: t.state, To: to, Reason: reason, Err: err}
	if !t.since.IsZero() {
		tr.Duration = now.Sub(t.since)
	}
	if g.process != nil {
		tr.PID = g.process.pid
	}
	t.state, t.since = to, now
	g.untold = append(g.untold, tr)
	g.super.metrics.transitions.WithLabelValues(string(tr.From), string(to)).Inc()
}

// report logs the changes of state that were not reported yet and hands them to
// [Config.OnTransition]. Only the goroutine that owns the generation calls it,
// so that they come in order, and without a lock, since writing a log may take
// its time.
func (g *generation) report() {
	t := g.tenant
	t.mu.Lock()
	untold := g.untold
	g.untold = nil
	t.mu.Unlock()
	for _, tr := range untold {
		fields := []zap.Field{
			zap.String("from", string(tr.From)), zap.String("to", string(tr.To)),
			zap.String("reason", tr.Reason), zap.Duration("duration", tr.Duration),
		}
		if tr.PID != 0 {
			fields = append(fields, zap.Int("pid", tr.PID))
		}
		if tr.To == Broken {
			g.logger.Error("worker is broken", append(fields, zap.Error(tr.Err), zap.Duration("backoff", g.backoff))...)
		} else {
			g.logger.Info("worker is "+string(tr.To), fields...)
		}
		if hook := g.super.cfg.Load().OnTransition; hook != nil {
			hook(tr)
		}
	}
}
