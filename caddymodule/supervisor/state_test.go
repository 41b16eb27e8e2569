package supervisor

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// story is what the hook was told, to be compared as "from to: reason".
type story struct{ told chan Transition }

func newStory() story { return story{make(chan Transition, 1000)} }

func (st story) hear(tr Transition) { st.told <- tr }

// want waits for the next moves, which must be these.
func (st story) want(t *testing.T, moves ...string) {
	t.Helper()
	var got []string
	for range moves {
		select {
		case tr := <-st.told:
			got = append(got, fmt.Sprintf("%s %s: %s", tr.From, tr.To, tr.Reason))
		case <-time.After(deadline):
			t.Fatalf("moves %q, want %q", got, moves)
		}
	}
	if !slices.Equal(got, moves) {
		t.Fatalf("moves %q, want %q", got, moves)
	}
}

// Each change of state is told of once, in order, as a line, a metric and to the
// hook, with how long the state before lasted.
func TestTransitions(t *testing.T) {
	clock, story := clockwork.NewFakeClock(), newStory()
	s, logs := mustNew(t, Config{Clock: clock, OnTransition: story.hear})
	spec := mustSpec(t, "acme")
	pid := mustPID(t, s, spec)
	story.want(t, "asleep starting: request", "starting ready: started")

	clock.Advance(time.Hour)
	if err := s.Stop(testContext(t), "acme"); err != nil {
		t.Fatal(err)
	}
	story.want(t, "ready draining: stop", "draining asleep: drained")
	line := logs.FilterMessage("worker is draining").All()
	if len(line) != 1 {
		t.Fatalf("%d lines say that it drains, want one", len(line))
	}
	fields := line[0].ContextMap()
	for name, want := range map[string]any{"tenant": "acme", "from": "ready", "to": "draining", "reason": "stop", "duration": time.Hour, "pid": int64(pid)} {
		if fields[name] != want {
			t.Errorf("the line's %s is %v, want %v", name, fields[name], want)
		}
	}

	mustKill(t, mustPID(t, s, spec), syscall.SIGKILL)
	story.want(t, "asleep starting: request", "starting ready: started", "ready broken: crashed")
	if line := logs.FilterMessage("worker is broken").All(); len(line) != 1 || !strings.Contains(fmt.Sprint(line[0].ContextMap()["error"]), "killed") {
		t.Errorf("lines that say that it is broken: %v, want one that says why", line)
	}
	mustHeal(t, s, clock, "acme")
	story.want(t, "broken asleep: backoff over")

	mustFault(t, spec, faultRefuse)
	if _, err := do(testContext(t), s, spec, request(http.MethodGet, "/who", "")); err == nil {
		t.Fatal("a worker that refuses to start answered")
	}
	story.want(t, "asleep starting: request", "starting broken: start failed")
	mustHeal(t, s, clock, "acme")
	story.want(t, "broken asleep: backoff over")

	// Told to end while it starts, it serves those who came for it and goes.
	mustFault(t, spec, faultSlow)
	answered := make(chan error, 1)
	go func() {
		_, err := do(testContext(t), s, spec, request(http.MethodGet, "/who", ""))
		answered <- err
	}()
	waitFor(t, "the process", func() bool { return s.Status("acme").PID != 0 })
	s.tenant("acme").askDrain("stop")
	mustFault(t, spec, "")
	if err := <-answered; err != nil {
		t.Errorf("the request for which it was started: %v", err)
	}
	story.want(t, "asleep starting: request", "starting draining: stop", "draining asleep: drained")

	for move, want := range map[[2]State]float64{{Asleep, Starting}: 4, {Starting, Ready}: 2, {Ready, Draining}: 1, {Starting, Broken}: 1, {Ready, Broken}: 1, {Broken, Asleep}: 2, {Starting, Draining}: 1, {Draining, Asleep}: 2} {
		if n := testutil.ToFloat64(s.metrics.transitions.WithLabelValues(string(move[0]), string(move[1]))); n != want {
			t.Errorf("%v transitions from %s to %s are counted, want %v", n, move[0], move[1], want)
		}
	}
}

// A worker that crashes while it drains is broken.
func TestCrashWhileDraining(t *testing.T) {
	story := newStory()
	s, _ := mustNew(t, Config{OnTransition: story.hear})
	spec := mustSpec(t, "acme")
	mustFault(t, spec, faultNoDrain)
	pid := mustPID(t, s, spec)
	g := s.tenant("acme").askDrain("stop")
	story.want(t, "asleep starting: request", "starting ready: started", "ready draining: stop")
	mustKill(t, pid, syscall.SIGKILL)
	story.want(t, "draining broken: crashed", "broken asleep: backoff over")
	<-g.over
}

// A tenant that sleeps has no goroutine, whatever its worker went through.
func TestSleepingTenantsHaveNoGoroutine(t *testing.T) {
	clock := clockwork.NewFakeClock()
	s, _ := mustNew(t, Config{Clock: clock})
	before := runtime.NumGoroutine()
	for i := range 8 {
		spec := mustSpec(t, fmt.Sprintf("t%d", i))
		mustGet(t, s, spec, "/who")
		if i%2 == 0 {
			mustKill(t, s.Status(spec.Tenant).PID, syscall.SIGKILL)
			waitFor(t, "the death to be noticed", func() bool { return s.Status(spec.Tenant).State == Broken })
			mustHeal(t, s, clock, spec.Tenant)
		} else if err := s.Stop(testContext(t), spec.Tenant); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "all goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}
