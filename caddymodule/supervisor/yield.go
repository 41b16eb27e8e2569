package supervisor

import (
	"time"

	"go.uber.org/zap"
)

// A worker that takes far more of the processors than the others yields: it then
// runs only where nobody else wants to, which costs it nothing while there is
// processor to spare, and its neighbours and the edge never wait for it to use up
// its turn. Measured with one that burns all it gets, a neighbour's requests take
// at the 99th percentile as long as without it, and ten times as long where it
// does not yield.
const (
	yieldEvery = 100 * time.Millisecond // how often workers are looked at

	// yieldRise and yieldFall are how much a look counts in what a worker is taken
	// to use, where it finds more and where it finds less; the rest is what was
	// found before. One that burns yields after a look or two, and for many
	// seconds after: a short rest does not let it begin anew.
	yieldRise = .5
	yieldFall = .01

	// yieldFrom is how many times the average of the workers that use anything
	// one must use to yield. Of two it is one that uses three times as much as
	// the other.
	yieldFrom = 1.5

	// yieldFloor is what any worker may use, in processors. One that is merely the
	// busiest, beside many that rest, must not wait for whatever else the machine has
	// to do, such as a reload of tenants.json; and one that yields to something outside
	// of the edge's service does not starve.
	yieldFloor = .25
)

// share is one worker's part in what the workers use of the processors.
type share struct {
	use    float64 // in processors
	weight float64 // what it may use beside others of another weight
}

// yields says which of the workers use far more than the others.
func yields(shares []share) []bool {
	var use, weight float64
	for _, s := range shares {
		if s.use > 0 {
			use, weight = use+s.use, weight+s.weight
		}
	}
	heavy := make([]bool, len(shares))
	for i, s := range shares {
		heavy[i] = s.use > yieldFloor && s.use/s.weight > yieldFrom*use/weight
	}
	return heavy
}

// average returns what a worker is taken to use after a look that found now, where
// it was taken to use was.
func average(was, now float64) float64 {
	news := yieldFall
	if now > was {
		news = yieldRise
	}
	return was + news*(now-was)
}

// balance has heavy workers yield until the supervisor closes. It goes by the
// system's clock, as what processes use does.
func (s *Supervisor) balance() {
	ticker := time.NewTicker(yieldEvery)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-s.closed:
			return
		case <-ticker.C:
		}
		now := time.Now()
		s.balanceOnce(now.Sub(last))
		last = now
	}
}

// balanceOnce looks at the workers once; the last look was so long ago.
func (s *Supervisor) balanceOnce(since time.Duration) {
	workers := s.room.serving()
	shares := make([]share, len(workers))
	for i, g := range workers {
		shares[i] = share{g.used(since), g.cpuWeight()}
	}
	count := 0
	for i, heavy := range yields(shares) {
		if workers[i].yield(heavy) {
			count++
		}
	}
	s.metrics.yielding.Set(float64(count))
}

// used returns what the worker uses of the processors, of late. Only balance calls
// it.
func (g *generation) used(since time.Duration) float64 {
	spent := g.spent
	g.withProcess(func(p *process) { spent = processorTime(p.pid) })
	if g.spent > 0 { // else that is its start, which is not held against it
		g.use = average(g.use, (spent-g.spent).Seconds()/since.Seconds())
	}
	g.spent = spent
	return g.use
}

// yield has the worker yield or not, and reports whether it does. Only balance
// calls it.
func (g *generation) yield(heavy bool) bool {
	is := g.yields.Load()
	if heavy == is && !g.settling {
		return is
	}
	var err error
	g.withProcess(func(p *process) { g.settling, err = p.setYield(heavy) })
	if err != nil {
		g.super.noYield.Do(func() {
			g.logger.Warn("a worker that takes more than its share of the processors cannot be made to yield; this is not said again", zap.Error(err))
		})
		return is
	}
	g.yields.Store(heavy)
	return heavy
}

// withProcess calls fn with the worker's process, if it is there.
func (g *generation) withProcess(fn func(*process)) {
	g.tenant.mu.Lock()
	p := g.process
	g.tenant.mu.Unlock()
	if p != nil {
		p.exclusively(func() { fn(p) })
	}
}

// setYield has the process yield or not, and reports whether there may be threads
// that have not heard of it, since they were made meanwhile. It is to be called
// exclusively.
func (p *process) setYield(yield bool) (more bool, err error) {
	if p.group != nil && p.group.Weighs() {
		return false, p.group.SetIdle(yield)
	}
	if yield {
		if err := mayReturn(); err != nil {
			return false, err
		}
	}
	return setIdlePolicy(p.pid, yield)
}
