package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestNewRefusesRunDir(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, open, filepath.Join(file, "below")} {
		if _, err := New(Config{Worker: "sq-worker", RunDir: dir}); err == nil || !strings.Contains(err.Error(), "run_dir") {
			t.Errorf("New with run_dir %s: error %v, want one that names run_dir", dir, err)
		}
	}
}

func TestRunDirIsOneEdges(t *testing.T) {
	s, _ := mustNew(t, Config{})
	cfg := *s.cfg.Load()
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "another edge") {
		t.Fatalf("a second edge in the run directory: %v", err)
	}
	if err := s.Update(cfg); err != nil {
		t.Errorf("its own edge again: %v", err)
	}
	if err := os.Remove(cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(cfg); err != nil {
		t.Errorf("its own edge, once it was removed: %v", err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	next, err := New(cfg)
	if err != nil {
		t.Fatalf("another edge after the first has ended: %v", err)
	}
	if err := next.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestRunDirAndSocketArePrivate(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	mustGet(t, s, spec, "/who")
	for path, want := range map[string]os.FileMode{
		s.cfg.Load().RunDir:                             os.ModeDir | 0o700,
		filepath.Join(s.cfg.Load().RunDir, "acme.sock"): os.ModeSocket | 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", filepath.Base(path), info.Mode(), want)
		}
	}
}

// A worker that cannot be started fails the request with the reason, and the
// next request after the backoff tries again.
func TestStartFails(t *testing.T) {
	tests := []struct {
		name   string
		break_ func(*Config, *Spec)
		want   string // in the error
		exits  string // the reason that is counted, "" if no process began
	}{
		{"no binary", func(c *Config, _ *Spec) { c.Worker = "/nonexistent/sq-worker" }, "no such file", ""},
		{"socket path too long", func(_ *Config, s *Spec) { s.Tenant = strings.Repeat("a", 120) }, "shorter run_dir", ""},
		{"crash", func(_ *Config, s *Spec) { mustFault(t, *s, faultCrash) }, "panic: fault asked for", exitCrashed},
		{"refusal", func(_ *Config, s *Spec) { mustFault(t, *s, faultRefuse) }, "the data is refused", exitCrashed},
		{"refusal of the data directory", func(_ *Config, s *Spec) { mustFault(t, *s, faultForeign) }, ErrRefused.Error() + ": it is another's", exitCrashed},
		{"never ready", func(c *Config, s *Spec) {
			mustFault(t, *s, faultNeverReady)
			c.StartTimeout = 200 * time.Millisecond
		}, "not ready after 200ms", exitKilled},
		{"no directory", func(_ *Config, s *Spec) { s.DataDir = "/nonexistent" }, "/nonexistent is not there: mount its disk", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, spec := Config{Clock: clockwork.NewFakeClock()}, mustSpec(t, "acme") // the backoff must not pass meanwhile
			tt.break_(&cfg, &spec)
			s, _ := mustNew(t, cfg)
			_, err := do(testContext(t), s, spec, request(http.MethodGet, "/who", ""))
			got := wantUnavailable(t, err)
			if !strings.Contains(got.Error(), tt.want) || got.RetryAfter <= 0 || got.RetryAfter > backoffMin {
				t.Errorf("error %v, retry after %v; want %q in it and at most %v", got, got.RetryAfter, tt.want, backoffMin)
			}
			if foreign := strings.Contains(tt.want, ErrRefused.Error()); errors.Is(err, ErrRefused) != foreign {
				t.Errorf("error %v is ErrRefused: %v, want %v", err, !foreign, foreign)
			}
			if st := s.Status(spec.Tenant); st.PID != 0 || st.Starts != 1 || st.Crashes != 1 || !strings.Contains(st.LastError, tt.want) {
				t.Errorf("status %+v, want no process, one start, one crash and the reason", st)
			}
			for _, reason := range []string{exitCrashed, exitKilled, exitDrained} {
				want := 0.0
				if reason == tt.exits {
					want = 1
				}
				if n := testutil.ToFloat64(s.metrics.exits.WithLabelValues(reason)); n != want {
					t.Errorf("%v exits as %s, want %v", n, reason, want)
				}
			}
		})
	}
}

func TestManyFirstRequestsStartOneWorker(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	ctx := testContext(t)
	answers := make([]string, 200)
	errs := make([]error, len(answers))
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i], errs[i] = do(ctx, s, spec, request(http.MethodGet, "/who", "")) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		if a != answers[0] {
			t.Fatalf("answers of %q and %q", answers[0], a)
		}
	}
	if starts := readLines(t, filepath.Join(spec.DataDir, "starts")); len(starts) != 1 {
		t.Fatalf("processes %v were started, want one", starts)
	}
}

// More tenants than may start at once all get their worker in the end, and a
// waiting request that is cancelled leaves at once.
func TestStartsAreBounded(t *testing.T) {
	s, _ := mustNew(t, Config{MaxStarts: 1})
	stuck := mustSpec(t, "stuck")
	mustFault(t, stuck, faultNeverReady)
	ctx, cancel := context.WithCancelCause(testContext(t))
	stuckErr := make(chan error, 1)
	go func() {
		_, err := do(ctx, s, stuck, request(http.MethodGet, "/who", ""))
		stuckErr <- err
	}()
	waitFor(t, "the first worker to hold the only place", func() bool { return s.Status("stuck").PID != 0 })
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		spec := mustSpec(t, fmt.Sprintf("t%d", i))
		wg.Go(func() { _, errs[i] = do(testContext(t), s, spec, request(http.MethodGet, "/who", "")) })
	}
	left := errors.New("left")
	cancel(left)
	if err := <-stuckErr; err != left {
		t.Fatalf("the cancelled request got %v, want %v", err, left)
	}
	waitFor(t, "the others to be in the queue", func() bool { return len(s.Statuses()) == 1+len(errs) })
	for _, st := range s.Statuses() {
		if st.Tenant != "stuck" && st.PID != 0 {
			t.Errorf("%s was started beside the only one that may be starting", st.Tenant)
		}
	}
	s.tenant("stuck").current.kill()
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// A worker that keeps dying is broken for longer and longer, alone, until one
// trial start succeeds.
func TestCrashLoopBacksOffAndHeals(t *testing.T) {
	clock := clockwork.NewFakeClock()
	s, _ := mustNew(t, Config{Clock: clock})
	spec, other := mustSpec(t, "acme"), mustSpec(t, "other")
	mustFault(t, spec, faultCrash)
	refused := func(what string) time.Duration {
		t.Helper()
		_, err := do(testContext(t), s, spec, request(http.MethodGet, "/who", ""))
		u := wantUnavailable(t, err)
		if !strings.Contains(u.Error(), "fault asked for") {
			t.Errorf("%s: %v, want the reason of the last failure", what, u)
		}
		return u.RetryAfter
	}
	heal := func() {
		t.Helper()
		mustHeal(t, s, clock, "acme")
	}
	retry := refused("the first start")
	starts := 1
	for ; retry <= maxBackoffWait; starts++ {
		heal()
		retry = refused("a start")
	}
	if got := refused("while it is broken"); got != retry {
		t.Errorf("retry after %v, want %v", got, retry)
	}
	if err := clock.BlockUntilContext(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(retry - maxBackoffWait - 1)
	if got := refused("shortly before it may start again"); got != maxBackoffWait+1 {
		t.Errorf("retry after %v, want %v", got, maxBackoffWait+1)
	}
	if st := s.Status("acme"); st.State != Broken || st.Starts != starts || st.Crashes != starts {
		t.Errorf("status %+v, want broken after %d starts", st, starts)
	}
	mustGet(t, s, other, "/who") // is not affected

	heal() // by itself
	var trial sync.WaitGroup
	for range 8 {
		trial.Go(func() { refused("the trial") })
	}
	trial.Wait()
	if st := s.Status("acme"); st.State != Broken || st.Starts != starts+1 {
		t.Errorf("status %+v, want broken after one trial start", st)
	}
	heal()
	mustFault(t, spec, "")
	mustGet(t, s, spec, "/who")
	if st := s.Status("acme"); st.State != Ready || st.Starts != starts+2 {
		t.Errorf("status %+v, want ready at the first start after the fault", st)
	}
}

// A request that comes shortly before a start is allowed again waits for it.
func TestRequestOutlastsShortBackoff(t *testing.T) {
	clock := clockwork.NewFakeClock()
	s, _ := mustNew(t, Config{Clock: clock})
	spec := mustSpec(t, "acme")
	mustFault(t, spec, faultCrash)
	if _, err := do(testContext(t), s, spec, request(http.MethodGet, "/who", "")); err == nil {
		t.Fatal("the start did not fail")
	}
	mustFault(t, spec, "")
	answered := make(chan error, 1)
	go func() {
		_, err := do(testContext(t), s, spec, request(http.MethodGet, "/who", ""))
		answered <- err
	}()
	mustHeal(t, s, clock, "acme")
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
}

func TestBackoff(t *testing.T) {
	now := time.Now()
	var b backoff
	if b.remaining(now) != 0 {
		t.Error("a start must wait before any failure")
	}
	for i, most := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000} {
		most *= time.Millisecond
		b.failed(now, 0)
		if got := b.remaining(now); got < most/2 || got > most {
			t.Errorf("after %d failures: %v, want %v to %v", i+1, got, most/2, most)
		}
	}
	if got := b.remaining(now.Add(backoffMax)); got != 0 {
		t.Errorf("%v remain after the longest backoff", got)
	}
	b.failed(now, healthyAfter-1)
	if got := b.remaining(now); got < backoffMax/2 {
		t.Errorf("%v after a short life, want the longest backoff", got)
	}
	b.failed(now, healthyAfter)
	if got := b.remaining(now); got > backoffMin {
		t.Errorf("%v after a long life, want the shortest backoff", got)
	}
	for range 100 { // no overflow
		b.failed(now, 0)
	}
	if got := b.remaining(now); got < backoffMax/2 || got > backoffMax {
		t.Errorf("%v after 100 failures", got)
	}
}

func TestStatusAndMetrics(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	if st := s.Status("acme"); st != (Status{Tenant: "acme", State: Asleep}) {
		t.Errorf("status of a tenant never asked for: %+v", st)
	}
	pid := mustPID(t, s, spec)
	st := s.Status("acme")
	if st.State != Ready || st.PID != pid || st.Starts != 1 || st.Crashes != 0 || st.LastError != "" || st.StartedAt.IsZero() {
		t.Errorf("status %+v, want ready as process %d", st, pid)
	}
	if _, err := os.Stat("/proc/self/statm"); err == nil && st.RSS < 1<<20 {
		t.Errorf("resident memory %d bytes", st.RSS)
	}
	if all := s.Statuses(); len(all) != 1 || all[0].PID != pid {
		t.Errorf("statuses %+v", all)
	}
	if n := testutil.ToFloat64(s.metrics.running); n != 1 {
		t.Errorf("%v workers running, want 1", n)
	}
	if err := s.Stop(testContext(t), "acme"); err != nil {
		t.Fatal(err)
	}
	if st := s.Status("acme"); st.State != Asleep || st.PID != 0 || st.Crashes != 0 {
		t.Errorf("status %+v after a drain, want asleep", st)
	}
	if n := testutil.ToFloat64(s.metrics.exits.WithLabelValues(exitDrained)); n != 1 {
		t.Errorf("%v exits as drained, want 1", n)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

// A request that must wait for more than its worker waits with the worker ready and
// kept awake, and goes nowhere if it may not.
func TestRequestMayBeHeldBackFromAReadyWorker(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	full := errors.New("the box is full")
	_, err := s.RoundTripWhen(testContext(t), spec, request(http.MethodGet, "/who", ""), func() error {
		if st := s.Status("acme"); st.State != Ready {
			t.Errorf("the worker is %s while its request is held back", st.State)
		}
		if n := s.tenant("acme").current.requests.Load(); n != 1 {
			t.Errorf("%d requests keep the worker awake", n)
		}
		return full
	})
	if err != full {
		t.Errorf("error %v, want the one that held it back", err)
	}
	if n := s.tenant("acme").current.requests.Load(); n != 0 {
		t.Errorf("%d requests are counted after that", n)
	}
}
