package supervisor

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// room is the places for worker processes. A start for which there is none waits
// in line, and for each that waits one idle worker is parked: the one that was
// idle the longest, or else the next to become idle.
type room struct {
	// wanted is how many more workers must be parked for those in line. It is
	// all that a request reads when it leaves.
	wanted atomic.Int64

	mu      sync.Mutex // before tenant.mu, where both are held
	places  int
	used    int
	line    []chan struct{} // one for each start that waits, closed when it has a place
	workers map[*generation]struct{}
	parking int // of workers, for room
}

// resize sets the number of places. Fewer than are used end no worker, but let
// none start until enough are gone.
func (r *room) resize(places int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places = places
	r.settleLocked()
}

// take waits for a place, first come, first served.
func (r *room) take(ctx context.Context) error {
	r.mu.Lock()
	mine := make(chan struct{})
	r.line = append(r.line, mine)
	r.settleLocked()
	r.mu.Unlock()
	select {
	case <-mine:
		return nil
	default:
	}
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.line, mine); i >= 0 {
		r.line = slices.Delete(r.line, i, i+1)
	} else {
		r.used-- // it came just now
	}
	r.settleLocked()
	return context.Cause(ctx)
}

// add makes a worker that serves one that may be parked.
func (r *room) add(g *generation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.workers == nil {
		r.workers = make(map[*generation]struct{})
	}
	r.workers[g] = struct{}{}
	r.settleLocked()
}

// serving returns the workers that serve.
func (r *room) serving() []*generation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.workers))
}

// giveBack frees the place of a worker that is gone.
func (r *room) giveBack(g *generation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.workers, g)
	if g.parkedForRoom {
		r.parking--
	}
	r.used--
	r.settleLocked()
}

// offer parks a worker that became idle while room is wanted.
func (r *room) offer(g *generation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, serves := r.workers[g]; serves && len(r.line) > r.parking {
		r.parkLocked(g)
	}
	r.settleLocked()
}

// settleLocked gives free places to the first in line and has idle workers
// parked for the rest.
func (r *room) settleLocked() {
	for len(r.line) > 0 && r.used < r.places {
		r.used++
		close(r.line[0])
		r.line = slices.Delete(r.line, 0, 1)
	}
	for len(r.line) > r.parking {
		g := r.longestIdleLocked()
		if g == nil {
			break
		}
		r.parkLocked(g) // unless it has just become busy: then it is not found again
	}
	r.wanted.Store(int64(len(r.line) - r.parking))
}

// longestIdleLocked returns nil where none is idle. One that was told to end is
// not: gateClosed is in its count.
func (r *room) longestIdleLocked() (longest *generation) {
	for g := range r.workers {
		if g.requests.Load() == 0 && (longest == nil || g.lastLeave.Load() < longest.lastLeave.Load()) {
			longest = g
		}
	}
	return longest
}

func (r *room) parkLocked(g *generation) {
	if g.parkIfIdle(reasonRoom) {
		g.parkedForRoom = true
		delete(r.workers, g)
		r.parking++
	}
}
