package supervisor

import "math"

// A generation's gate is its count of requests: closed, it lets none in, and tells
// when the last is out. Its goroutine is told to end through it, by
// whoever wants that.

// gateClosed is added to a generation's count of requests to close its gate. No
// number of requests lifts the sum above zero again.
const gateClosed = math.MinInt64 / 2

// enter counts a request in, unless the gate is closed.
func (g *generation) enter() bool {
	if g.requests.Add(1) > 0 {
		return true
	}
	g.leave()
	return false
}

func (g *generation) leave() { g.leaveAt(true) }

// leaveAt counts a request out. One that is no use of the worker does not keep it
// awake.
func (g *generation) leaveAt(use bool) {
	switch g.requests.Add(-1) {
	case 0:
		if use {
			g.lastLeave.Store(g.super.clock.Now().UnixNano())
		}
		if g.super.room.wanted.Load() > 0 {
			g.super.room.offer(g)
		}
	case gateClosed:
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
	if g.drained != "" || g.tenant.current != g || g.tenant.state != Starting && g.tenant.state != Ready {
		return
	}
	g.closeGate()
	g.toldLocked(reason)
}

// parkIfIdle tells the generation to end unless it has a request, or was told
// already.
func (g *generation) parkIfIdle(reason string) bool {
	t := g.tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != Ready || !g.requests.CompareAndSwap(0, gateClosed) {
		return false
	}
	t.ready.CompareAndSwap(g, nil)
	g.idleOnce.Do(func() { close(g.idle) })
	g.toldLocked(reason)
	return true
}

// toldLocked notes that the gate was closed, and why. tenant.mu must be held.
func (g *generation) toldLocked(reason string) {
	g.drained = reason
	if g.tenant.state == Ready {
		g.enterLocked(Draining, reason, nil)
	}
	g.tell()
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
