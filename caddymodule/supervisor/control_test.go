package supervisor

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// What an operator parks sleeps until the next request, what is held until it is
// released; each may be done again.
func TestParkAndHold(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	ctx := testContext(t)
	for range 2 { // a worker that runs, and none
		if err := s.Park(ctx, "acme", false); err != nil {
			t.Fatal(err)
		}
		mustGet(t, s, spec, "/who")
	}
	for range 2 {
		if err := s.Park(ctx, "acme", true); err != nil {
			t.Fatal(err)
		}
		_, err := do(ctx, s, spec, request(http.MethodGet, "/who", ""))
		if u := wantUnavailable(t, err); !errors.Is(u, ErrHeld) || u.RetryAfter != holdRetry {
			t.Errorf("refused with %v, retry after %v", u, u.RetryAfter)
		}
		if err := s.Restart(ctx, spec); !errors.Is(err, ErrHeld) {
			t.Errorf("restarting what is held: %v", err)
		}
		if st := s.Status("acme"); st.State != Asleep || !st.Held || st.Crashes != 0 {
			t.Errorf("status %+v, want asleep and held", st)
		}
		mustBeFree(t, spec)
	}
	for range 2 {
		s.Release("acme")
		mustGet(t, s, spec, "/who")
	}
	if err := s.Park(ctx, "never-asked-for", true); err != nil || !s.Status("never-asked-for").Held {
		t.Errorf("holding a tenant that was never asked for: %v", err)
	}
}

// Requests that wait while their tenant is held are refused; those that the
// worker has are answered.
func TestHoldUnderRequests(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	ctx := testContext(t)
	resp, err := s.RoundTrip(ctx, spec, request(http.MethodGet, "/stream", ""))
	if err != nil {
		t.Fatal(err)
	}
	parked := make(chan error, 1)
	go func() { parked <- s.Park(ctx, "acme", true) }()
	waitFor(t, "it to drain", func() bool { return s.Status("acme").State == Draining })
	_, err = do(ctx, s, spec, request(http.MethodGet, "/who", ""))
	if !errors.Is(wantUnavailable(t, err), ErrHeld) {
		t.Errorf("error %v, want %v", err, ErrHeld)
	}
	begun := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, begun); err != nil || string(begun) != "begun" {
		t.Errorf("the answer under way: %q, %v", begun, err)
	}
	resp.Body.Close()
	if err := <-parked; err != nil {
		t.Fatal(err)
	}
}

func TestRestart(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	ctx := testContext(t)
	last := 0
	for range 3 { // none, one that runs, another
		if err := s.Restart(ctx, spec); err != nil {
			t.Fatal(err)
		}
		if st := s.Status("acme"); st.State != Ready || st.PID == last {
			t.Fatalf("status %+v after a restart of process %d", st, last)
		}
		last = s.Status("acme").PID
	}
	// A broken one is started in spite of its backoff, and says why it is not.
	if err := s.Park(ctx, "acme", false); err != nil {
		t.Fatal(err)
	}
	mustFault(t, spec, faultCrash)
	for range 6 {
		wantUnavailable(t, s.Restart(ctx, spec))
	}
	if st := s.Status("acme"); st.Crashes != 6 || st.RetryIn <= maxBackoffWait {
		t.Fatalf("status %+v, want 6 crashes and a long backoff", st)
	}
	mustFault(t, spec, "")
	if err := s.Restart(ctx, spec); err != nil {
		t.Fatal(err)
	}
}

// A replaced binary or another run directory rolls the workers once, unseen;
// other options leave them alone.
func TestUpdateRollsWhatNeedsIt(t *testing.T) {
	worker := filepath.Join(t.TempDir(), "sq-worker")
	mustReplace(t, worker)
	s, _ := mustNew(t, Config{Worker: worker})
	spec := mustSpec(t, "acme")
	pid := mustPID(t, s, spec)
	mustUpdate(t, s, func(*Config) {})
	mustUpdate(t, s, func(cfg *Config) { cfg.ResponseTimeout, cfg.MaxWorkers, cfg.MaxStarts = 1e9, 3, 1 })
	if st := s.Status("acme"); st.State != Ready || st.PID != pid {
		t.Fatalf("status %+v, want process %d ready", st, pid)
	}
	for name, change := range map[string]func(*Config){
		"binary":  func(*Config) { mustReplace(t, worker) },
		"run_dir": func(cfg *Config) { cfg.RunDir = mustRunDir(t) },
	} {
		mustUpdate(t, s, change)
		waitFor(t, "the worker of another "+name+" to be gone", func() bool { return s.Status("acme").PID != pid })
		pid = mustPID(t, s, spec)
		mustUpdate(t, s, func(*Config) {})
		if next := mustPID(t, s, spec); next != pid {
			t.Errorf("%s: rolled once more", name)
		}
	}
	if st := s.Status("acme"); st.Crashes != 0 {
		t.Errorf("status %+v", st)
	}
}

// Rolls under load: no request fails or is executed twice.
func TestRollIsInvisible(t *testing.T) {
	const tenants, clients, rolls = 8, 2, 10
	s, _ := mustNew(t, Config{MaxStarts: 2})
	ctx := testContext(t)
	var stopped atomic.Bool
	var all sync.WaitGroup
	specs, sent := make([]Spec, tenants), make([]atomic.Int64, tenants)
	for i := range specs {
		specs[i] = mustSpec(t, fmt.Sprintf("t%d", i))
		for c := range clients {
			all.Go(func() {
				for n := 0; !stopped.Load() && !t.Failed(); n++ {
					if _, err := do(ctx, s, specs[i], request(http.MethodPost, "/execute", fmt.Sprintf("%d.%d", c, n))); err != nil {
						t.Errorf("%s: write %d.%d: %v", specs[i].Tenant, c, n, err)
					}
					sent[i].Add(1)
				}
			})
		}
	}
	for range rolls {
		pids := make(map[string]int)
		for _, spec := range specs {
			pids[spec.Tenant] = mustPID(t, s, spec)
		}
		if n := s.Roll(); n > tenants {
			t.Errorf("%d workers are rolled", n)
		}
		for _, spec := range specs {
			waitFor(t, "another worker", func() bool { return s.Status(spec.Tenant).PID != pids[spec.Tenant] })
		}
	}
	stopped.Store(true)
	all.Wait()
	for i, spec := range specs {
		executed := readLines(t, filepath.Join(spec.DataDir, "executed"))
		seen := make(map[string]bool)
		for _, id := range executed {
			seen[id] = true
		}
		if n := int(sent[i].Load()); len(executed) != n || len(seen) != n {
			t.Errorf("%s: %d writes were answered, %d executed, %d of them different", spec.Tenant, n, len(executed), len(seen))
		}
		if st := s.Status(spec.Tenant); st.Starts < rolls || st.Crashes > 0 {
			t.Errorf("status %+v", st)
		}
	}
}

// A start that waits for its turn is given up where its tenant is held.
func TestHoldEndsAStartThatWaits(t *testing.T) {
	story := newStory()
	s, _ := mustNew(t, Config{MaxStarts: 1, OnTransition: func(tr Transition) {
		if tr.Tenant == "acme" {
			story.hear(tr)
		}
	}})
	stuck, spec := mustSpec(t, "stuck"), mustSpec(t, "acme")
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
	second := send(spec)
	waitFor(t, "the second to wait for it", func() bool { return s.queued.Load() == 1 })
	if err := s.Park(ctx, "acme", true); err != nil {
		t.Fatal(err)
	}
	if err := <-second; !errors.Is(wantUnavailable(t, err), ErrHeld) {
		t.Errorf("error %v, want %v", err, ErrHeld)
	}
	story.want(t, "asleep starting: request", "starting asleep: park")
	mustFault(t, stuck, "")
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if n := len(readLines(t, filepath.Join(spec.DataDir, "starts"))); n != 0 {
		t.Errorf("%d processes were started for a tenant that is held", n)
	}
}
