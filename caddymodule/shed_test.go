package caddymodule

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestShedderKeepsTheShares has one tenant ask for far more than its share.
func TestShedderKeepsTheShares(t *testing.T) {
	const most = 64
	now := time.Unix(1_000_000, 0)
	s := new(shedder)
	others := make([]*usage, 7)
	for i := range others {
		others[i] = new(usage)
		if !s.enter(others[i], most, now) {
			t.Fatal("refused while the box is idle")
		}
	}
	hot := new(usage)
	admitted, refused := 0, 0
	for range 1000 {
		if s.enter(hot, most, now) {
			admitted++
		} else {
			refused++ // and held: it still counts as waiting
		}
	}
	if admitted != most-len(others) {
		t.Errorf("%d of 1000 were let in, want all that fit: %d", admitted, most-len(others))
	}
	// The box is saturated now. What the others ask for within their share passes.
	for i, u := range others {
		for n := 2; n <= most/(len(others)+1); n++ {
			if !s.enter(u, most, now) {
				t.Fatalf("tenant %d is refused its request %d, its share is %d", i, n, most/(len(others)+1))
			}
		}
		if s.enter(u, most, now) {
			t.Errorf("tenant %d was let in beyond its share", i)
		} else {
			s.leave(u, false)
		}
	}
	// As the hot tenant's requests end, it gets no more than its share again.
	for range admitted {
		s.leave(hot, true)
	}
	again := 0
	for range 100 {
		if s.enter(hot, most, now) {
			again++
		}
	}
	if again != most/(len(others)+1) {
		t.Errorf("the hot tenant has %d in flight, want its share of %d", again, most/(len(others)+1))
	}
}

func TestShedderLetsATenantAloneHaveAll(t *testing.T) {
	s, u, other, now := new(shedder), new(usage), new(usage), time.Now()
	for i := range 64 * aloneTimes {
		if !s.enter(u, 64, now) {
			t.Fatalf("request %d is refused", i+1)
		}
	}
	if s.enter(u, 64, now) {
		t.Error("one more is let in: nothing bounds it")
	}
	if !s.enter(other, 64, now) {
		t.Error("another tenant's first request is refused")
	}
	// The other waits, however long ago it came.
	now = now.Add(time.Minute)
	for range 64 * (aloneTimes - 1) {
		s.leave(u, true)
	}
	if s.enter(u, 64, now) {
		t.Error("a tenant is let in beyond its share while another waits")
	}
}

// TestShedderRefusesNobodyABrowsersWorth: 5,000 sleeping tenants that are woken
// at once are far more than the box has in flight, and each by itself is none.
func TestShedderRefusesNobodyABrowsersWorth(t *testing.T) {
	s, now := new(shedder), time.Now()
	for range 5000 {
		u := new(usage)
		for range minShare {
			if !s.enter(u, 64, now) {
				t.Fatal("refused")
			}
		}
		if s.enter(u, 64, now) && s.waiting.Load() > 64 {
			t.Fatal("nothing bounds a tenant")
		}
	}
}

func TestShedderCountsTenantsOfTheLastSecond(t *testing.T) {
	s := new(shedder)
	a, b, c := new(usage), new(usage), new(usage)
	for _, step := range []struct {
		u      *usage
		second int64
		want   int64
	}{
		{a, 100, 1}, {a, 100, 1}, {b, 100, 2},
		{a, 101, 2}, {b, 101, 2}, {c, 101, 3}, // two in the second before, then three in this one
		{a, 102, 3}, {a, 103, 1}, // c and b are gone
		{b, 110, 1}, // and so is a
	} {
		s.see(step.u, step.second)
		if got := s.active(); got != step.want {
			t.Errorf("second %d: %d tenants are active, want %d", step.second, got, step.want)
		}
	}
}

func TestShedderEndsAtZero(t *testing.T) {
	s := new(shedder)
	tenants := []*usage{new(usage), new(usage), new(usage)}
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			u := tenants[i%len(tenants)]
			for range 1000 {
				s.leave(u, s.enter(u, 4, time.Now()))
			}
		})
	}
	group.Wait()
	if s.waiting.Load() != 0 {
		t.Errorf("%d wait for ever", s.waiting.Load())
	}
	for _, u := range tenants {
		if u.waiting.Load() != 0 || u.wanted.Load() != 0 {
			t.Errorf("%d of a tenant wait for ever", u.wanted.Load())
		}
	}
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(shedder)
		gone, leave := context.WithCancel(context.Background())
		leave()
		for _, test := range []struct {
			name   string
			ctx    context.Context
			others int64
			want   time.Duration
		}{
			{"a refusal", context.Background(), 0, holdFor},
			{"whose client has gone", gone, 0, 0},
			{"one of too many", context.Background(), maxHeld, 0},
		} {
			s.held.Store(test.others)
			began := time.Now()
			s.hold(test.ctx)
			if took := time.Since(began); took != test.want || s.held.Load() != test.others {
				t.Errorf("%s is held for %v, want %v; %d are held after it", test.name, took, test.want, s.held.Load()-test.others)
			}
		}
	})
}
