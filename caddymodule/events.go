package caddymodule

import (
	"context"

	"github.com/caddyserver/caddy/v2"

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

// emitter has events emitted in the name of its app's config. It handles Caddy's
// event started: before that the events app may be about to start, which is not
// safe beside emitting.
type emitter struct{ *App }

// Handle implements caddyevents.Handler.
func (e emitter) Handle(context.Context, caddy.Event) error {
	if e.runtime.emitter.Swap(e.App) == nil {
		close(e.runtime.emitting)
	}
	return nil
}

// emitTransitions emits events, once a config has started, until ctx ends.
func (rt *runtime) emitTransitions(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-rt.emitting:
	}
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
