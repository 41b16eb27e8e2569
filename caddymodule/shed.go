package caddymodule

import (
	"context"
	goruntime "runtime"
	"sync/atomic"
	"time"
)

// shedder keeps one tenant from taking the whole box. While no more than
// max_in_flight requests wait for the beginning of an answer it does nothing.
// Beyond that a tenant may have no more of them waiting than its share, which is
// max_in_flight divided by the tenants that were active in the last second, and
// at least minShare: its other requests are refused, and those of tenants within
// their share go on. So no more than max_in_flight and minShare for each active
// tenant ever wait, and nothing is queued. A tenant that nobody else wants the
// box beside may have aloneTimes max_in_flight.
//
// An answer that has begun does not count, nor does a request whose text is
// still being sent: a slow client keeps nobody from anything.
type shedder struct {
	waiting atomic.Int64 // requests let in or held, of all tenants
	held    atomic.Int64 // requests refused and not told so yet

	second atomic.Int64 // since 1970, that now counts
	now    atomic.Int64 // tenants active in that second so far
	before atomic.Int64 // tenants active in the second before
}

const (
	// minShare is what any tenant may have waiting, however many there are: a
	// browser's worth.
	minShare = 4

	aloneTimes = 16

	// holdFor is how long a refusal is held back. A client that asks again at
	// once, on however many connections, would else have the edge do little but
	// refuse it. Holding costs a timer; maxHeld bounds how many.
	holdFor = 250 * time.Millisecond
	maxHeld = 4096
)

// defaultMaxInFlight is max_in_flight by default. With this many requests in
// flight the CPUs are busy and more of them only wait for longer.
func defaultMaxInFlight() int64 { return int64(32 * goruntime.GOMAXPROCS(0)) }

// enter lets a request of a tenant in, unless the box is saturated and the
// tenant has its share already. Either way leave must be called, with the same
// answer.
func (s *shedder) enter(u *usage, most int64, now time.Time) bool {
	s.see(u, now.Unix())
	total := s.waiting.Add(1)
	wanted := u.wanted.Add(1)
	mine := u.waiting.Add(1)
	active := max(1, s.active())
	share := max(minShare, most/active)
	if active == 1 && wanted == total {
		share = aloneTimes * most
	}
	if total <= most || mine <= share {
		return true
	}
	u.waiting.Add(-1)
	return false
}

func (s *shedder) leave(u *usage, admitted bool) {
	s.waiting.Add(-1)
	u.wanted.Add(-1)
	if admitted {
		u.waiting.Add(-1)
	}
}

// see counts the tenant among those of this second.
func (s *shedder) see(u *usage, second int64) {
	if is := s.second.Load(); is < second && s.second.CompareAndSwap(is, second) {
		seen := s.now.Swap(0)
		if is < second-1 {
			seen = 0
		}
		s.before.Store(seen)
	}
	if was := u.second.Load(); was != second && u.second.CompareAndSwap(was, second) {
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
	waiting bool // it counts with the shedder
}

// enter takes a place, or says which limit refuses it.
func (p *place) enter(ctx context.Context, most int64, now time.Time) *refusal {
	if p.waiting = p.shedder.enter(p.usage, most, now); !p.waiting {
		p.look(now, p.usage.meter.running.Load())
		p.shedder.hold(ctx)
		p.shedder.leave(p.usage, false)
		return &refusal{inFlight, unavailable(1, limitNames[inFlight]+": the service is busy and this tenant has its share of it")}
	}
	return p.admit(now)
}

// begin says that the answer begins, or that it is the client who is waited for.
func (p *place) begin() {
	if p.waiting {
		p.waiting = false
		p.shedder.leave(p.usage, true)
	}
}

// release gives back all of the place. It may be called more than once.
func (p *place) release() {
	p.begin()
	p.grant.release()
}
