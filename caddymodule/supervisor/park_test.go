package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// nightly lengthens the tests that race against chance.
var nightly = os.Getenv("SQ_TEST") == "nightly"

// A worker is parked once it has been idle for the timeout, which a request
// begins anew, and what only looks at it does not.
func TestIdleWorkerIsParked(t *testing.T) {
	clock, story := clockwork.NewFakeClock(), newStory()
	s, _ := mustNew(t, Config{Clock: clock, OnTransition: story.hear, IdleTimeout: time.Minute})
	spec := mustSpec(t, "acme")
	pid := mustPID(t, s, spec)
	story.want(t, "asleep starting: request", "starting ready: started")
	ctx := testContext(t)
	timers := func() { // waits until the owner looks at the clock again
		t.Helper()
		if err := clock.BlockUntilContext(ctx, 1); err != nil {
			t.Fatal(err)
		}
	}
	timers()
	clock.Advance(59 * time.Second)
	if next := mustPID(t, s, spec); next != pid {
		t.Fatalf("process %d answers, want %d", next, pid)
	}
	clock.Advance(time.Second) // its timer fires, and it was used a second ago
	timers()
	resp, err := s.Peek(ctx, spec, request(http.MethodGet, "/who", ""))
	if err != nil || resp == nil {
		t.Fatalf("peeking at a worker that is ready: %v, %v", resp, err)
	}
	resp.Body.Close()
	clock.Advance(58 * time.Second)
	if st := s.Status("acme"); st.State != Ready {
		t.Fatalf("status %+v a second before its time", st)
	}
	clock.Advance(time.Second)
	story.want(t, "ready draining: idle", "draining asleep: drained")
	mustBeFree(t, spec)
	if resp, err := s.Peek(ctx, spec, request(http.MethodGet, "/who", "")); err != nil || resp != nil {
		t.Errorf("peeking at a worker that sleeps: %v, %v, want nothing", resp, err)
	}
	if next := mustPID(t, s, spec); next == pid {
		t.Errorf("process %d answers again", pid)
	}
}

// A request in flight keeps its worker, however long it takes.
func TestBusyWorkerIsNotParked(t *testing.T) {
	clock := clockwork.NewFakeClock()
	s, _ := mustNew(t, Config{Clock: clock, IdleTimeout: time.Minute})
	spec := mustSpec(t, "acme")
	ctx := testContext(t)
	resp, err := s.RoundTrip(ctx, spec, request(http.MethodGet, "/stream", ""))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := clock.BlockUntilContext(ctx, 1); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Minute)
	}
	if st := s.Status("acme"); st.State != Ready {
		t.Errorf("status %+v while it has a request", st)
	}
	resp.Body.Close()
}

// A changed idle timeout holds for workers that are idle already.
func TestIdleTimeoutChanges(t *testing.T) {
	clock, story := clockwork.NewFakeClock(), newStory()
	s, _ := mustNew(t, Config{Clock: clock, OnTransition: story.hear})
	mustGet(t, s, mustSpec(t, "acme"), "/who")
	clock.Advance(time.Hour)
	if st := s.Status("acme"); st.State != Ready {
		t.Fatalf("status %+v without an idle timeout", st)
	}
	cfg := *s.cfg.Load()
	cfg.IdleTimeout = time.Minute
	if err := s.Update(cfg); err != nil {
		t.Fatal(err)
	}
	story.want(t, "asleep starting: request", "starting ready: started", "ready draining: idle", "draining asleep: drained")
}

// Workers fall asleep as fast as they can while requests come: none fails, and
// no write is executed twice or lost.
func TestParkingIsInvisible(t *testing.T) {
	cycles, tenants := 120, 6
	if nightly {
		cycles = 10_000
	}
	story := newStory()
	s, _ := mustNew(t, Config{IdleTimeout: time.Millisecond, OnTransition: func(tr Transition) {
		if tr.To == Asleep {
			story.hear(tr)
		}
	}})
	stressParking(t, story, cycles, tenants, func(ctx context.Context, spec Spec, id string) error {
		_, err := do(ctx, s, spec, request(http.MethodPost, "/execute", id))
		return err
	}, func(spec Spec) []string {
		return readLines(t, filepath.Join(spec.DataDir, "executed"))
	})
	for _, st := range s.Statuses() {
		if st.Crashes > 0 {
			t.Errorf("status %+v, want no crash", st)
		}
	}
}

// The same with the real worker, whose checkpoints must hold each insert once.
func TestParkingOfRealWorkerIsInvisible(t *testing.T) {
	cycles, tenants := 40, 4
	if nightly {
		cycles = 10_000
	}
	story := newStory()
	s, _ := mustNew(t, Config{Worker: mustBuildWorker(t), IdleTimeout: time.Millisecond, OnTransition: func(tr Transition) {
		if tr.To == Asleep {
			story.hear(tr)
		}
	}})
	stressParking(t, story, cycles, tenants, func(ctx context.Context, spec Spec, id string) error {
		return insert(ctx, s, spec, 1, id+"\n")
	}, func(spec Spec) []string {
		return strings.Fields(mustGet(t, s, spec, "/select?c="+spec.Tenant+".1.1.1/1.1.1/1.1.1&p=notes"))
	})
}

// stressParking writes until workers have fallen asleep cycles times, with pauses
// around the moment in which they do, and checks that each write was executed
// once.
func stressParking(t *testing.T, story story, cycles, tenants int, write func(context.Context, Spec, string) error, executed func(Spec) []string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	stopped := make(chan struct{})
	var all sync.WaitGroup
	specs, sent := make([]Spec, tenants), make([]int, tenants)
	for i := range specs {
		specs[i] = mustSpec(t, fmt.Sprintf("t%d", i))
		var mu sync.Mutex
		for c := range 2 {
			all.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stopped:
						return
					case <-time.After(rand.N(4 * time.Millisecond)):
					}
					if err := write(ctx, specs[i], fmt.Sprintf("%d.%d", c, n)); err != nil {
						t.Errorf("%s: write %d.%d: %v", specs[i].Tenant, c, n, err)
					}
					mu.Lock()
					sent[i]++
					mu.Unlock()
				}
			})
		}
	}
	for range cycles {
		select {
		case <-story.told:
		case <-ctx.Done():
			t.Fatal("the workers do not fall asleep")
		}
	}
	close(stopped)
	all.Wait()
	total := 0
	for i, spec := range specs {
		done := executed(spec)
		seen := make(map[string]bool)
		for _, id := range done {
			seen[id] = true
		}
		if len(done) != sent[i] || len(seen) != sent[i] {
			t.Errorf("%s: %d writes were answered, %d executed, %d of them different", spec.Tenant, sent[i], len(done), len(seen))
		}
		total += sent[i]
	}
	t.Logf("workers fell asleep %d times under %d writes", cycles, total)
}

// Beyond max_workers the worker that was idle the longest makes room; where none
// is idle, the next that becomes so does.
func TestRoomIsMade(t *testing.T) {
	story := newStory()
	s, _ := mustNew(t, Config{MaxWorkers: 2, OnTransition: story.hear})
	a, b, c, d := mustSpec(t, "a"), mustSpec(t, "b"), mustSpec(t, "c"), mustSpec(t, "d")
	for _, spec := range []Spec{a, b} {
		mustGet(t, s, spec, "/who")
		story.want(t, "asleep starting: request", "starting ready: started")
	}
	mustGet(t, s, a, "/who") // so that b is idle for longer
	mustGet(t, s, c, "/who")
	if b, a := s.Status("b").State, s.Status("a").State; b != Asleep || a != Ready {
		t.Errorf("b is %s and a %s, want the former parked", b, a)
	}
	mustBeFree(t, b)

	// Both are busy now.
	ctx := testContext(t)
	var busy []*Answer
	for _, spec := range []Spec{a, c} {
		resp, err := s.RoundTrip(ctx, spec, request(http.MethodGet, "/stream", ""))
		if err != nil {
			t.Fatal(err)
		}
		busy = append(busy, resp)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := do(ctx, s, d, request(http.MethodGet, "/who", ""))
		answered <- err
	}()
	waitFor(t, "the start to wait for room", func() bool { return s.room.wanted.Load() == 1 })
	if n := testutil.ToFloat64(s.metrics.queue); n != 1 {
		t.Errorf("%v starts wait, want 1", n)
	}
	busy[1].Body.Close()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if a, c := s.Status("a").State, s.Status("c").State; a != Ready || c != Asleep {
		t.Errorf("a is %s and c %s, want the one parked that became idle", a, c)
	}
	busy[0].Body.Close()
	if n := testutil.ToFloat64(s.metrics.running); n > 2 {
		t.Errorf("%v workers run, want at most 2", n)
	}
}

// More tenants than places are served, over and over, and there are never more
// processes than places.
func TestCrowdSharesFewPlaces(t *testing.T) {
	const places, tenants, requests = 3, 12, 15
	s, _ := mustNew(t, Config{MaxWorkers: places, QueueTimeout: deadline})
	ctx := testContext(t)
	var all sync.WaitGroup
	for i := range tenants {
		spec := mustSpec(t, fmt.Sprintf("t%d", i))
		all.Go(func() {
			for n := range requests {
				if _, err := do(ctx, s, spec, request(http.MethodPost, "/execute", fmt.Sprint(n))); err != nil {
					t.Errorf("%s: %v", spec.Tenant, err)
				}
				if n := testutil.ToFloat64(s.metrics.running); n > places {
					t.Errorf("%v workers run, want at most %d", n, places)
				}
			}
			if got := readLines(t, filepath.Join(spec.DataDir, "executed")); len(got) != requests {
				t.Errorf("%s: %d writes were executed, want %d", spec.Tenant, len(got), requests)
			}
		})
	}
	all.Wait()
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if s.room.used > places || len(s.room.line) != 0 || s.room.wanted.Load() > 0 {
		t.Errorf("the room's books: %d used, %d in line, %d wanted", s.room.used, len(s.room.line), s.room.wanted.Load())
	}
}

// The line is bounded in number and in wait; who is refused is told when to come
// again, and that it is no fault of the tenant's.
func TestQueueIsBounded(t *testing.T) {
	clock := clockwork.NewFakeClock()
	s, _ := mustNew(t, Config{Clock: clock, MaxStarts: 1, MaxQueue: 2})
	stuck := mustSpec(t, "stuck")
	mustFault(t, stuck, faultSlow)
	ctx := testContext(t)
	send := func(spec Spec) chan error {
		answer := make(chan error, 1)
		go func() {
			_, err := do(ctx, s, spec, request(http.MethodGet, "/who", ""))
			answer <- err
		}()
		return answer
	}
	first := send(stuck)
	waitFor(t, "the first to hold the only place", func() bool { return s.Status("stuck").PID != 0 })
	waiting := []chan error{send(mustSpec(t, "a")), send(mustSpec(t, "b"))}
	waitFor(t, "the others to be in line", func() bool { return s.queued.Load() == 2 })
	within := func(d time.Duration) bool { return 0 < d && d <= 10*time.Second }
	u := wantUnavailable(t, <-send(mustSpec(t, "c")))
	if !within(u.RetryAfter) || !strings.Contains(u.Error(), "max_queue") {
		t.Errorf("refused with %v, retry after %v", u, u.RetryAfter)
	}
	if st := s.Status("c"); st.State != Asleep || st.Crashes != 0 {
		t.Errorf("status %+v of the one that was refused", st)
	}
	if err := clock.BlockUntilContext(ctx, 2); err != nil { // both look at the clock
		t.Fatal(err)
	}
	clock.Advance(10 * time.Second)
	for _, answer := range waiting {
		if u := wantUnavailable(t, <-answer); !errors.Is(u, errQueueTimeout) || !within(u.RetryAfter) {
			t.Errorf("refused with %v, retry after %v", u, u.RetryAfter)
		}
	}
	for reason, want := range map[string]float64{refusedFull: 1, refusedTimeout: 2} {
		if n := testutil.ToFloat64(s.metrics.refused.WithLabelValues(reason)); n != want {
			t.Errorf("%v starts were refused as %s, want %v", n, reason, want)
		}
	}
	if st := s.Status("a"); st.Starts != 0 || st.Crashes != 0 || s.queued.Load() != 0 {
		t.Errorf("status %+v, %d in line", st, s.queued.Load())
	}
	mustFault(t, stuck, "")
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if err := <-send(mustSpec(t, "d")); err != nil {
		t.Fatal(err)
	}
}

// Starts wait in the order in which they came, whose ever they are.
func TestStartsAreFirstComeFirstServed(t *testing.T) {
	const tenants = 6
	started := make(chan string, 1+tenants)
	s, _ := mustNew(t, Config{MaxStarts: 1, OnTransition: func(tr Transition) {
		if tr.To == Ready {
			started <- tr.Tenant
		}
	}})
	stuck := mustSpec(t, "stuck")
	mustFault(t, stuck, faultSlow)
	var all sync.WaitGroup
	ctx := testContext(t)
	send := func(spec Spec) {
		all.Go(func() {
			if _, err := do(ctx, s, spec, request(http.MethodGet, "/who", "")); err != nil {
				t.Errorf("%s: %v", spec.Tenant, err)
			}
		})
	}
	send(stuck)
	waitFor(t, "the first to hold the only place", func() bool { return s.Status("stuck").PID != 0 })
	for i := range tenants {
		send(mustSpec(t, fmt.Sprint(i)))
		waitFor(t, "the next to have its room", func() bool {
			s.room.mu.Lock()
			defer s.room.mu.Unlock()
			return s.room.used == i+2
		})
	}
	mustFault(t, stuck, "")
	all.Wait()
	var order []string
	for range 1 + tenants {
		order = append(order, <-started)
	}
	if got := strings.Join(order, " "); got != "stuck 0 1 2 3 4 5" {
		t.Errorf("started in the order %s", got)
	}
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		limits     limits
		max, spare int
		want, left int // workers; spares
		by         string
	}{
		{limits{}, 1000, 0, 1000, 0, "max_workers"},
		{limits{descriptors: 1 << 20, threads: 1 << 20, memory: 1 << 40}, 1000, 8, 1000, 8, "max_workers"},
		{limits{descriptors: 1024, threads: 1 << 20, memory: 1 << 40}, 1000, 0, 64, 0, "descriptors"},
		{limits{descriptors: 1024, threads: 1 << 20, memory: 1 << 40}, 1000, 8, 56, 8, "descriptors"},
		{limits{descriptors: 1024, threads: 1 << 20, memory: 1 << 40}, 1000, 999, 48, 16, "descriptors"},
		{limits{descriptors: 1024}, 60, 8, 56, 8, "descriptors"},
		{limits{descriptors: 1024}, 50, 8, 50, 8, "max_workers"},
		{limits{descriptors: 1 << 20, threads: 4000, memory: 1 << 40}, 1000, 0, 300, 0, "threads"},
		{limits{descriptors: 1024, threads: 400, memory: 1 << 30}, 1000, 0, 30, 0, "threads"},
		{limits{memory: 1 << 30}, 1000, 0, 384, 0, "memory"},
		{limits{memory: 1}, 1000, 8, 1, 0, "memory"},
		{limits{}, 3, 8, 3, 3, "max_workers"},
	} {
		s, logs := mustNew(t, Config{})
		if got, left := tt.limits.apply(tt.max, tt.spare, s.logger); got != tt.want || left != tt.left {
			t.Errorf("%+v: %d workers and %d spares, want %d and %d", tt, got, left, tt.want, tt.left)
		}
		lines := logs.FilterMessage("workers are limited").All()
		if got := lines[len(lines)-1].ContextMap()["by"]; len(lines) != 2 || got != tt.by {
			t.Errorf("%+v: %d lines, the last says by %v, want by %s", tt.limits, len(lines), got, tt.by)
		}
	}
	if l := readLimits(); l.descriptors == 0 || l.threads == 0 || l.memory == 0 {
		t.Logf("not all limits are known here: %+v", l) // so on other systems than Linux
	}
}
