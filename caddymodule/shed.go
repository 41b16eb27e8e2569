package caddymodule

import (
	"context"
	goruntime "runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// shedder keeps one tenant from taking the whole box. While the requests whose
// answer has not begun cost no more than max_in_flight it does nothing. Beyond that
// a tenant may have no more of them with its worker than its share, which is
// max_in_flight divided by the tenants that were active in the last second, and at
// least minShare. Its other requests wait in the tenant's own line, and those of
// tenants within their share go on. One that has waited for patience is refused, and
// so is one for which the line is too long. A tenant that nobody else wants the box
// beside may have aloneTimes max_in_flight.
//
// An answer that has begun does not count, nor does a request whose text is still
// being sent, or whose worker is not ready yet: it uses no processor.
type shedder struct {
	wanted atomic.Int64 // what the requests let in or in line cost, of all tenants
	held   atomic.Int64 // requests in line, and refusals held back

	second atomic.Int64 // since 1970, that now counts
	now    atomic.Int64 // tenants active in that second so far
	before atomic.Int64 // tenants active in the second before
}

// turns is one tenant's part of it.
type turns struct {
	second atomic.Int64 // the last, since 1970, in which there was a request
	wanted atomic.Int64 // what its requests cost that are let in or in line

	mu   sync.Mutex
	in   int64 // what those let in cost
	line []*turn
}

// turn is a request in line.
type turn struct {
	cost int64
	come chan struct{} // closed once it is let in
}

const (
	// A read needs nothing but a processor: two for each keep all of them busy, and
	// more would only make everybody wait for longer. A write waits for the disk,
	// which syncs many at once.
	writeCost = 1
	readCost  = 16

	// minShare is what any tenant may have waiting, however many there are.
	minShare = readCost

	aloneTimes = 16

	// patience is how long a request waits in line: for longer than any line in
	// which its tenant's requests are answered at a fair pace.
	patience = time.Second

	// maxLine bounds the requests of one tenant in line, and maxHeld those of all,
	// each of which costs a timer and what its client's connection does.
	maxLine = 1024
	maxHeld = 4096

	// holdFor is how long other refusals are held back. A client that asks again at
	// once, on however many connections, would else have the edge do little but
	// refuse it.
	holdFor = 250 * time.Millisecond
)

// defaultMaxInFlight is max_in_flight by default.
func defaultMaxInFlight() int64 { return int64(32 * goruntime.GOMAXPROCS(0)) }

// enter lets a request of a tenant in, at once or when its turn has come, and
// reports whether it did. If so, leave must be called with the same cost.
func (s *shedder) enter(ctx context.Context, t *turns, cost, most int64, now time.Time) bool {
	s.see(t, now.Unix())
	s.wanted.Add(cost)
	t.wanted.Add(cost)
	mine, wait := s.join(t, cost, most)
	if mine == nil {
		return true
	}
	defer s.held.Add(-1)
	if s.held.Add(1) <= maxHeld {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-mine.come:
			return true
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return !s.giveUp(t, mine, most)
}

// join lets the request in and returns nil, or has it wait in line, for so long at
// most. Where the line is too long its turn never comes, and it is only held back.
func (s *shedder) join(t *turns, cost, most int64) (mine *turn, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.callLocked(t, most)
	if len(t.line) == 0 && s.fitsLocked(t, cost, most) {
		t.in += cost
		return nil, 0
	}
	mine = &turn{cost, make(chan struct{})}
	if len(t.line) == maxLine {
		return mine, holdFor
	}
	t.line = append(t.line, mine)
	return mine, patience
}

// giveUp takes a request out of line, unless its turn has just come.
func (s *shedder) giveUp(t *turns, mine *turn, most int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-mine.come:
		return false
	default:
	}
	t.line = slices.DeleteFunc(t.line, func(other *turn) bool { return other == mine })
	s.goneLocked(t, mine.cost, most)
	return true
}

// leave ends what enter began.
func (s *shedder) leave(t *turns, cost, most int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.in -= cost
	s.goneLocked(t, cost, most)
}

func (s *shedder) goneLocked(t *turns, cost, most int64) {
	s.wanted.Add(-cost)
	t.wanted.Add(-cost)
	s.callLocked(t, most)
}

// callLocked lets in those at the head of the line that now may be.
func (s *shedder) callLocked(t *turns, most int64) {
	for len(t.line) > 0 && s.fitsLocked(t, t.line[0].cost, most) {
		t.in += t.line[0].cost
		close(t.line[0].come)
		t.line = slices.Delete(t.line, 0, 1)
	}
}

// fitsLocked says whether the tenant may have one more request of that cost, which
// the sums of what is wanted have in them.
func (s *shedder) fitsLocked(t *turns, cost, most int64) bool {
	wanted, active := s.wanted.Load(), max(1, s.active())
	share := max(minShare, most/active)
	if active == 1 && t.wanted.Load() == wanted {
		share = aloneTimes * most
	}
	return wanted <= most || t.in+cost <= share
}

// see counts the tenant among those of this second.
func (s *shedder) see(t *turns, second int64) {
	if is := s.second.Load(); is < second && s.second.CompareAndSwap(is, second) {
		seen := s.now.Swap(0)
		if is < second-1 {
			seen = 0
		}
		s.before.Store(seen)
	}
	if was := t.second.Load(); was != second && t.second.CompareAndSwap(was, second) {
		s.now.Add(1)
	}
}

// active returns how many tenants were active of late.
func (s *shedder) active() int64 { return max(s.now.Load(), s.before.Load()) }

// hold waits before a refusal, unless too many do already.
func (s *shedder) hold(ctx context.Context) {
	if s.held.Add(1) <= maxHeld {
		timer := time.NewTimer(holdFor)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	s.held.Add(-1)
}

// place is what a request takes up, in its tenant's limits and at the edge.
type place struct {
	grant
	shedder *shedder
	began   time.Time
	most    int64 // of the shedder
	cost    int64 // to the shedder; 0 where it is not let in
}

// enter lets the request go to its worker, which is ready, when its turn has come,
// or says why not.
func (p *place) enter(ctx context.Context, cost int64) error {
	if p.cost > 0 { // it is sent again
		return nil
	}
	if !p.shedder.enter(ctx, &p.usage.turns, cost, p.most, p.began) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &refusal{inFlight, unavailable(1, limitNames[inFlight]+": the service is busy and this tenant has its share of it")}
	}
	p.cost = cost
	return nil
}

// begin says that the answer begins.
func (p *place) begin() {
	if p.cost > 0 {
		p.shedder.leave(&p.usage.turns, p.cost, p.most)
		p.cost = 0
	}
}

// release gives back all of the place. It may be called more than once.
func (p *place) release() {
	p.begin()
	p.grant.release()
}
