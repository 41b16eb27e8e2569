package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/wire"
)

// sparePIDs returns the processes that wait for a tenant.
func sparePIDs(s *Supervisor) (pids []int) {
	s.spares.mu.Lock()
	defer s.spares.mu.Unlock()
	for _, sp := range s.spares.idle {
		pids = append(pids, sp.pid)
	}
	return pids
}

// mustHaveSpares waits until there are n spares, and returns their processes.
func mustHaveSpares(t *testing.T, s *Supervisor, n int) []int {
	t.Helper()
	waitFor(t, fmt.Sprint(n, " spares"), func() bool { return s.spares.count() == n })
	return sparePIDs(s)
}

// mustBeGone waits until the processes are no more, but for who must reap them.
func mustBeGone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		waitFor(t, fmt.Sprint("the end of process ", pid), func() bool {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return syscall.Kill(pid, 0) != nil || strings.Contains(string(stat), ") Z ")
		})
	}
}

// A start takes a spare, which is the tenant's from then on like any worker, and
// another takes its place.
func TestStartTakesSpare(t *testing.T) {
	for name, uri := range map[string]string{"fake": "/who", "real": "/version?c=acme"} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{SpareWorkers: 2}
			if name == "real" {
				cfg.Worker = mustBuildWorker(t)
			}
			s, logs := mustNew(t, cfg)
			spec := mustSpec(t, "acme")
			ahead := mustHaveSpares(t, s, 2)
			if n := testutil.ToFloat64(s.metrics.running) + testutil.ToFloat64(s.metrics.starts); n != 0 || len(s.Statuses()) > 0 {
				t.Errorf("spares are counted as workers: %v, %v", n, s.Statuses())
			}
			mustGet(t, s, spec, uri)
			pid := s.Status("acme").PID
			if !slices.Contains(ahead, pid) {
				t.Errorf("process %d serves, want one of %v", pid, ahead)
			}
			if n := testutil.ToFloat64(s.metrics.running); n != 1 {
				t.Errorf("%v workers run, want 1", n)
			}
			now := mustHaveSpares(t, s, 2)
			if slices.Contains(now, pid) {
				t.Errorf("the worker is still spare: %v", now)
			}
			if n := testutil.ToFloat64(s.metrics.spare); n != 2 {
				t.Errorf("%v are spare, want 2", n)
			}
			if err := s.Stop(testContext(t), "acme"); err != nil {
				t.Fatal(err)
			}
			mustBeGone(t, []int{pid})
			if st := s.Status("acme"); st.Starts != 1 || st.Crashes != 0 || logs.FilterLevelExact(zap.ErrorLevel).Len() > 0 {
				t.Errorf("status %+v, and the log %v", st, logs.All())
			}
			if slices.Contains(sparePIDs(s), pid) {
				t.Error("a worker that had a tenant is spare again")
			}
		})
	}
}

// What a worker writes and how it dies is its tenant's, once it has one.
func TestCrashOfSpareWithTenant(t *testing.T) {
	s, logs := mustNew(t, Config{SpareWorkers: 1})
	spec := mustSpec(t, "acme")
	mustFault(t, spec, faultCrash)
	mustHaveSpares(t, s, 1)
	_, err := do(testContext(t), s, spec, request(http.MethodGet, "/who", ""))
	if u := wantUnavailable(t, err); !strings.Contains(u.Error(), "panic: fault asked for") {
		t.Errorf("error %v, want the reason of the crash", u)
	}
	if st := s.Status("acme"); st.Crashes != 1 || st.Starts != 1 {
		t.Errorf("status %+v, want one start and one crash", st)
	}
	for _, e := range logs.FilterMessage("worker wrote to stderr").All() {
		if e.ContextMap()["tenant"] != "acme" {
			t.Errorf("a line without its tenant: %v", e.ContextMap())
		}
	}
}

// A spare that has died is no tenant's trouble, is said once, and is replaced after
// the next start.
func TestDeadSpare(t *testing.T) {
	s, logs := mustNew(t, Config{SpareWorkers: 2})
	for _, pid := range mustHaveSpares(t, s, 2) {
		mustKill(t, pid, syscall.SIGKILL)
	}
	mustHaveSpares(t, s, 0)
	if s.spares.lacks() {
		t.Error("it is replaced at once, as would be one that dies at once")
	}
	if n := logs.FilterMessageSnippet("a spare worker ended by itself").Len(); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	mustGet(t, s, mustSpec(t, "acme"), "/who")
	mustHaveSpares(t, s, 2)
}

// Nor is one of whose death nobody knows yet.
func TestDeadSpareIsTaken(t *testing.T) {
	s, logs := mustNew(t, Config{})
	cfg := s.cfg.Load()
	p, err := launch(imageOf(cfg), nil, 0, nil, s.logger)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Process.Kill()
	<-p.exited
	s.spares.mu.Lock()
	s.spares.idle = append(s.spares.idle, &spare{p, imageOf(cfg), make(chan struct{})})
	s.spares.mu.Unlock()
	open := openFiles(t)
	mustGet(t, s, mustSpec(t, "acme"), "/who")
	if st := s.Status("acme"); st.Crashes > 0 || st.LastError != "" || logs.FilterMessageSnippet("spare worker is of no use").Len() != 1 {
		t.Errorf("status %+v and the log %v", st, logs.All())
	}
	if err := s.Stop(testContext(t), "acme"); err != nil {
		t.Fatal(err)
	}
	if left := openFiles(t); left >= open {
		t.Errorf("%d files are open, want fewer than the %d with the spare", left, open)
	}
}

// After its binary was replaced no spare is given to a tenant any more.
func TestStaleSpare(t *testing.T) {
	worker := filepath.Join(t.TempDir(), "sq-worker")
	mustReplace(t, worker)
	s, _ := mustNew(t, Config{Worker: worker, SpareWorkers: 2})
	stale := mustHaveSpares(t, s, 2)
	mustReplace(t, worker)
	pid := mustPID(t, s, mustSpec(t, "acme"))
	if slices.Contains(stale, pid) {
		t.Error("the worker runs the old binary")
	}
	mustBeGone(t, stale)
	stale = mustHaveSpares(t, s, 2)
	mustReplace(t, worker)
	mustUpdate(t, s, func(*Config) {}) // as by a reload
	mustBeGone(t, stale)
	stale = mustHaveSpares(t, s, 2)
	mustUpdate(t, s, func(c *Config) { c.Sandbox = wire.SandboxOff })
	mustBeGone(t, stale)
}

func TestResizeSpares(t *testing.T) {
	s, _ := mustNew(t, Config{SpareWorkers: 1})
	before := mustHaveSpares(t, s, 1)
	mustUpdate(t, s, func(c *Config) { c.SpareWorkers = 3 })
	now := mustHaveSpares(t, s, 3)
	if !slices.Contains(now, before[0]) {
		t.Errorf("spare %d is ended for more of them: %v", before[0], now)
	}
	mustUpdate(t, s, func(c *Config) { c.SpareWorkers = 0 })
	if n := s.spares.count(); n != 0 {
		t.Errorf("%d spares are left", n)
	}
	mustBeGone(t, now)
	mustGet(t, s, mustSpec(t, "acme"), "/who")
	if s.spares.lacks() {
		t.Error("one is to be started, though none is wanted")
	}
	if n := sparesFor(&Config{SpareWorkers: 3, UIDs: owners.Range{First: 200000, Last: 200001}}); n != 0 {
		t.Errorf("%d spares are wanted for workers with users of their own", n)
	}
}

// One that was wanted when it was started may not be any more when it is there.
func TestResizeDuringLaunchOfSpare(t *testing.T) {
	worker := filepath.Join(t.TempDir(), "sq-worker")
	mustScript(t, worker, `echo $$ >"$0.pid"; until [ -e "$0.go" ]; do sleep 0.01; done; exec env -i `+mustExecutable(t)+` "$@"`)
	s, _ := mustNew(t, Config{Worker: worker, SpareWorkers: 1})
	var pid int
	waitFor(t, "its process", func() bool {
		lines := readLines(t, worker+".pid")
		if len(lines) == 1 {
			pid, _ = strconv.Atoi(lines[0])
		}
		return pid != 0
	})
	mustUpdate(t, s, func(c *Config) { c.SpareWorkers = 0 })
	if err := os.WriteFile(worker+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mustBeGone(t, []int{pid})
	if n := s.spares.count(); n != 0 {
		t.Errorf("%d are spare", n)
	}
}

// Neither Close nor the death of the edge leaves a spare.
func TestSparesEndWithEdge(t *testing.T) {
	s, logs := mustNew(t, Config{SpareWorkers: 3})
	pids := mustHaveSpares(t, s, 3)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
			t.Errorf("spare %d after Close: %v, want it reaped", pid, err)
		}
	}
	if errs := logs.FilterLevelExact(zap.ErrorLevel); errs.Len() > 0 {
		t.Errorf("their end is said to be an error: %v", errs.All())
	}
	if pids = mustEdgeDie(t, mustBuildWorker(t), mustSpec(t, "acme"), "/version?c=acme"); len(pids) != 2 {
		t.Fatalf("the killed edge had the spares %v, want 2", pids)
	}
	mustBeGone(t, pids)
}

// Close does not wait for one that does not come to wait for it.
func TestCloseDuringLaunchOfSpare(t *testing.T) {
	worker := filepath.Join(t.TempDir(), "sq-worker")
	mustScript(t, worker, `echo $$ >"$0.pid"; exec sleep 3600`)
	s, _ := mustNew(t, Config{Worker: worker, SpareWorkers: 1})
	waitFor(t, "its process", func() bool { return len(readLines(t, worker+".pid")) == 1 })
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// A binary that cannot stand by is tried once, until a tenant's worker has started
// or the options change.
func TestSpareCannotBeStarted(t *testing.T) {
	worker := filepath.Join(t.TempDir(), "sq-worker")
	mustScript(t, worker, `echo x >>"$0.tries"; [ -e "$0.good" ] || { echo bad luck >&2; exit 1; }; exec env -i `+mustExecutable(t)+` "$@"`)
	s, logs := mustNew(t, Config{Worker: worker, SpareWorkers: 2})
	said := func() *observer.ObservedLogs { return logs.FilterMessageSnippet("a spare worker cannot be started") }
	waitFor(t, "the failure", func() bool { return said().Len() > 0 })
	if s.spares.lacks() || len(readLines(t, worker+".tries")) != 1 || !strings.Contains(fmt.Sprint(said().All()[0].ContextMap()), "bad luck") {
		t.Errorf("it is tried again, or not said why: %v", said().All())
	}
	if err := os.WriteFile(worker+".good", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mustGet(t, s, mustSpec(t, "acme"), "/who")
	mustHaveSpares(t, s, 2)
	if said().Len() != 1 {
		t.Errorf("it is said %d times", said().Len())
	}
}

// Where many wake at once each has a worker of its own, spares go to the first of
// them, and none is started as long as somebody waits.
func TestStormTakesSpares(t *testing.T) {
	s, _ := mustNew(t, Config{SpareWorkers: 3, MaxStarts: 4})
	ahead := mustHaveSpares(t, s, 3)
	slow := mustSpec(t, "slow")
	mustFault(t, slow, faultSlow)
	ctx := testContext(t)
	var wg sync.WaitGroup
	var slowErr error
	wg.Go(func() { _, slowErr = do(ctx, s, slow, request(http.MethodGet, "/who", "")) })
	waitFor(t, "the slow start's process", func() bool { return s.Status("slow").PID != 0 })
	errs := make([]error, 12)
	var storm sync.WaitGroup
	for i := range errs {
		spec := mustSpec(t, fmt.Sprint("t", i))
		storm.Go(func() { _, errs[i] = do(ctx, s, spec, request(http.MethodGet, "/who", "")) })
	}
	storm.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if pids := sparePIDs(s); len(pids) > 0 || s.spares.lacks() {
		t.Errorf("spares %v are there, while one still starts", pids)
	}
	serving := make(map[int]bool)
	for _, st := range s.Statuses() {
		serving[st.PID] = true
	}
	if len(serving) != 13 {
		t.Errorf("%d processes serve 13 tenants", len(serving))
	}
	for _, pid := range ahead {
		if !serving[pid] {
			t.Errorf("spare %d serves nobody", pid)
		}
	}
	mustFault(t, slow, "")
	wg.Wait()
	if slowErr != nil {
		t.Fatal(slowErr)
	}
	mustHaveSpares(t, s, 3)
}

// A start that fails before any process is needed costs no spare and no descriptor.
func TestFailedStartCostsNoSpare(t *testing.T) {
	s, _ := mustNew(t, Config{SpareWorkers: 1})
	before := mustHaveSpares(t, s, 1)
	open := openFiles(t)
	spec := mustSpec(t, strings.Repeat("a", 120))
	if _, err := do(testContext(t), s, spec, request(http.MethodGet, "/who", "")); err == nil || !strings.Contains(err.Error(), "shorter run_dir") {
		t.Errorf("error %v, want one that names run_dir", err)
	}
	if now := sparePIDs(s); !slices.Equal(now, before) || openFiles(t) != open {
		t.Errorf("spares %v and %d descriptors, want %v and %d as before", now, openFiles(t), before, open)
	}
}

// One whose socket cannot be bound is ended, and what is ours of it closed.
func TestSpareThatCannotListen(t *testing.T) {
	s, _ := mustNew(t, Config{SpareWorkers: 1})
	before := mustHaveSpares(t, s, 1)
	open := openFiles(t)
	spec := mustSpec(t, "acme")
	path := socketPath(s.cfg.Load().RunDir, "acme")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := do(testContext(t), s, spec, request(http.MethodGet, "/who", "")); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("error %v, want what is in the way", err)
	}
	mustBeGone(t, before)
	mustHaveSpares(t, s, 1)
	if now := openFiles(t); now != open {
		t.Errorf("%d descriptors, want %d as before", now, open)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	mustGet(t, s, spec, "/who")
	mustHaveSpares(t, s, 1)
}

// What a worker is told is the tenant's own where it has something of its own.
func TestArguments(t *testing.T) {
	spec := Spec{Tenant: "acme", DataDir: "/d"}
	for _, tt := range []struct {
		memory int
		owner  string
		home   bool
		want   string
	}{
		{64, "", false, "-tenant acme -dir /d -memory 64"},
		{32, "1f", false, "-tenant acme -dir /d -memory 32 -owner 1f"},
		{64, "", true, "-tenant acme -dir /d -memory 64 -at . -threads 512"},
	} {
		if got := strings.Join(arguments(spec, tt.memory, tt.owner, tt.home), " "); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
