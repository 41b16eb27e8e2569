package caddymodule

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// crowd has requests of several tenants wait for their answer in a bubble of
// synctest, where nobody's patience ends by accident.
type crowd struct {
	t    *testing.T
	most int64
	shedder
}

// enter begins n requests of a tenant, and returns how many are let in by now and
// a function that tells how many are at any later moment.
func (c *crowd) enter(ctx context.Context, tenant *turns, cost int64, n int) (in func() int64) {
	c.t.Helper()
	var admitted atomic.Int64
	for range n {
		go func() {
			if c.shedder.enter(ctx, tenant, cost, c.most, time.Now()) {
				admitted.Add(1)
			}
		}()
	}
	synctest.Wait()
	return func() int64 {
		synctest.Wait()
		return admitted.Load()
	}
}

func (c *crowd) leave(tenant *turns, cost int64, n int64) {
	for range n {
		c.shedder.leave(tenant, cost, c.most)
	}
}

// mustEnd fails the test unless all that was counted was counted out.
func (c *crowd) mustEnd(tenants ...*turns) {
	c.t.Helper()
	if c.wanted.Load() != 0 || c.held.Load() != 0 {
		c.t.Errorf("the end: %d wanted, %d held", c.wanted.Load(), c.held.Load())
	}
	for i, u := range tenants {
		if u.wanted.Load() != 0 || u.in != 0 || len(u.line) != 0 {
			c.t.Errorf("the end: of tenant %d %d are wanted, %d in, %d in line", i, u.wanted.Load(), u.in, len(u.line))
		}
	}
}

// TestShedderKeepsTheShares has one tenant ask for far more than its share.
func TestShedderKeepsTheShares(t *testing.T) {
	for _, tt := range []struct {
		name  string
		cost  int64
		share int64 // of requests, where four tenants are active
	}{{"reads", readCost, 2}, {"writes", writeCost, 32}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &crowd{t: t, most: 128}
				hot, others := new(turns), []*turns{new(turns), new(turns), new(turns)}
				for _, u := range others {
					if in := c.enter(t.Context(), u, tt.cost, 1); in() != 1 {
						t.Fatal("not let in while the box is idle")
					}
				}
				in := c.enter(t.Context(), hot, tt.cost, 500)
				first := in()
				if most := (c.most - 3*tt.cost) / tt.cost; first > most || first < tt.share {
					t.Errorf("%d of 500 are let in, want at most %d and at least the share, %d", first, most, tt.share)
				}
				// What the others ask for within their share passes at once.
				for i, u := range others {
					if in := c.enter(t.Context(), u, tt.cost, int(tt.share)-1); in() != tt.share-1 {
						t.Errorf("of tenant %d only %d more are let in", i, in())
					}
				}
				// As the hot tenant's end, the next come, and no more than the share.
				c.leave(hot, tt.cost, first)
				if now := in() - first; now != tt.share {
					t.Errorf("%d of the hot tenant's come next, want its share, %d", now, tt.share)
				}
				for ended := first; ended < 500; {
					now := in() - ended
					if now > tt.share && c.wanted.Load() > c.most || now == 0 {
						t.Fatalf("%d are in after %d have ended", now, ended)
					}
					c.leave(hot, tt.cost, now)
					ended += now
				}
				for _, u := range others {
					c.leave(u, tt.cost, tt.share)
				}
				c.mustEnd(append(others, hot)...)
			})
		})
	}
}

// TestShedderServesALineInOrder: nobody overtakes those who wait.
func TestShedderServesALineInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{t: t, most: readCost}
		u, other := new(turns), new(turns)
		c.enter(t.Context(), other, readCost, 1)
		c.enter(t.Context(), u, readCost, 1)
		var order []int
		for i := range 10 {
			go func() {
				c.shedder.enter(t.Context(), u, readCost, c.most, time.Now())
				order = append(order, i)
			}()
			synctest.Wait()
		}
		for range 11 {
			c.leave(u, readCost, 1)
			synctest.Wait()
		}
		for i, n := range order {
			if i != n {
				t.Fatalf("they were let in as %v", order)
			}
		}
		c.leave(other, readCost, 1)
		c.mustEnd(u, other)
	})
}

func TestShedderLetsATenantAloneHaveAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{t: t, most: 64}
		u, other := new(turns), new(turns)
		in := c.enter(t.Context(), u, writeCost, 64*aloneTimes+1)
		if in() != 64*aloneTimes {
			t.Fatalf("%d are let in", in())
		}
		if c.enter(t.Context(), other, readCost, 1)() != 1 {
			t.Error("another tenant's first request is not let in")
		}
		// The other waits for its answer: the last one waits until both fit.
		c.leave(u, writeCost, 64*aloneTimes-48)
		if in() != 64*aloneTimes {
			t.Error("one is let in beyond the share while another waits")
		}
		c.leave(u, writeCost, 1)
		if in() != 64*aloneTimes+1 {
			t.Error("the last is not let in where it fits")
		}
	})
}

// TestShedderRefuses whoever has waited for too long, or has too many before it.
func TestShedderRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{t: t, most: readCost}
		u, other := new(turns), new(turns)
		c.enter(t.Context(), other, readCost, 1)
		ctx, leave := context.WithCancel(t.Context())
		c.enter(ctx, u, readCost, 1)
		in := c.enter(ctx, u, readCost, maxLine)
		began := time.Now()
		if c.shedder.enter(ctx, u, readCost, c.most, began) || time.Since(began) != holdFor {
			t.Errorf("one more than the line takes is let in, or is held back for %v", time.Since(began))
		}
		// Clients that go away leave the line to others.
		leave()
		synctest.Wait()
		if in() != 0 || len(u.line) != 0 {
			t.Errorf("%d of those who left are let in, %d are in line", in(), len(u.line))
		}
		began = time.Now()
		if c.shedder.enter(t.Context(), u, readCost, c.most, began) || time.Since(began) != patience {
			t.Errorf("one that finds no place in time is let in, or waited %v", time.Since(began))
		}
		c.held.Store(maxHeld)
		began = time.Now()
		if c.shedder.enter(t.Context(), u, readCost, c.most, began) || time.Since(began) != 0 {
			t.Errorf("one more than all lines together take is let in, or waits %v", time.Since(began))
		}
		c.held.Store(0)
		c.leave(u, readCost, 1)
		c.leave(other, readCost, 1)
		c.mustEnd(u, other)
	})
}

// TestShedderEndsAtZero has clients come, wait, give up and leave at random.
func TestShedderEndsAtZero(t *testing.T) {
	c := &crowd{t: t, most: 4}
	tenants := []*turns{new(turns), new(turns), new(turns)}
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			u := tenants[i%len(tenants)]
			for range 1000 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(100*time.Microsecond))))
				if cost := int64(1 + rand.IntN(readCost)); c.shedder.enter(ctx, u, cost, c.most, time.Now()) {
					c.leave(u, cost, 1)
				}
				cancel()
			}
		})
	}
	group.Wait()
	c.mustEnd(tenants...)
}

func TestShedderCountsTenantsOfTheLastSecond(t *testing.T) {
	s := new(shedder)
	a, b, c := new(turns), new(turns), new(turns)
	for _, step := range []struct {
		u      *turns
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
