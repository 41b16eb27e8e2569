package caddymodule

import (
	"context"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
)

// workerEvent is the name of the event that says that a worker's state changed.
// Its data are tenant, from, to, reason and, in seconds, the duration in from.
const workerEvent = "sq_worker_state"

// maxTransitions is how many changes of state may wait for the handlers of their
// events: some seconds' worth of a box that wakes all its tenants at once. More
// are dropped and counted, since a slow handler must not keep workers from
// starting.
const maxTransitions = 4096

// transition has an event emitted, soon. It does not wait.
func (rt *runtime) transition(tr supervisor.Transition) {
	select {
	case rt.transitions <- tr:
	default:
		rt.metrics.eventsDropped.Inc()
	}
}

// emitTransitions emits events in the name of the config in force until ctx
// ends.
func (rt *runtime) emitTransitions(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case tr := <-rt.transitions:
			rt.emit(tr)
		}
	}
}

func (rt *runtime) emit(tr supervisor.Transition) {
	app := rt.emitter.Load()
	if !app.events.ShouldEmit(workerEvent) || app.ctx.Err() != nil {
		return
	}
	app.events.Emit(app.ctx, workerEvent, map[string]any{
		"tenant": tr.Tenant, "from": string(tr.From), "to": string(tr.To),
		"reason": tr.Reason, "duration": tr.Duration.Seconds(),
	})
}
