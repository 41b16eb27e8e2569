package supervisor

import (
	"context"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mustHavePolicy says whether all threads of a process are under a policy.
func mustHavePolicy(t *testing.T, pid int, policy uint32) bool {
	t.Helper()
	threads, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if attr, err := unix.SchedGetAttr(tid, 0); err == nil && attr.Policy != policy { // else it has ended
			return false
		}
	}
	return true
}

// TestWorkerThatTakesTheProcessorsYields has one worker use all it gets, and another
// a little.
func TestWorkerThatTakesTheProcessorsYields(t *testing.T) {
	if err := mayReturn(); err != nil {
		t.Skip("skipped: ", err)
	}
	s, _ := mustNew(t, Config{Worker: mustBuildHostile(t)})
	hot, calm := mustSpec(t, "hot"), mustSpec(t, "calm")
	ask := func(spec Spec, path string) {
		t.Helper()
		if _, err := do(context.Background(), s, spec, request(http.MethodGet, path, "")); err != nil {
			t.Fatal(err)
		}
	}
	ask(calm, "/rest")
	ask(hot, "/spin")
	pid := s.Status("hot").PID
	waitFor(t, "the worker that spins to yield", func() bool {
		ask(calm, "/rest")
		return s.Status("hot").Yields && mustHavePolicy(t, pid, unix.SCHED_IDLE)
	})
	if st := s.Status("calm"); st.Yields || !mustHavePolicy(t, st.PID, unix.SCHED_NORMAL) {
		t.Error("the calm worker yields, too")
	}
	// The way back, which would take the hot one half a minute of rest.
	pid = s.Status("calm").PID
	s.tenant("calm").current.withProcess(func(p *process) {
		for _, step := range []struct {
			yield  bool
			policy uint32
		}{{true, unix.SCHED_IDLE}, {false, unix.SCHED_NORMAL}} {
			if _, err := p.setYield(step.yield); err != nil || !mustHavePolicy(t, pid, step.policy) {
				t.Errorf("told to yield %v: %v, or not all threads heard of it", step.yield, err)
			}
		}
	})
}

// TestStartIsNotHeldAgainstAWorker has this process stand for a worker's: it has used
// the processors before it is looked at.
func TestStartIsNotHeldAgainstAWorker(t *testing.T) {
	g := &generation{tenant: new(tenant), process: &process{pid: os.Getpid()}}
	began := processorTime(os.Getpid())
	if began == 0 {
		t.Fatal("this process has used nothing")
	}
	if use := g.used(time.Millisecond); use != 0 {
		t.Errorf("at the first look it uses %v processors, want 0", use)
	}
	for processorTime(os.Getpid()) < g.spent+10*time.Millisecond {
	}
	if use := g.used(time.Second); use <= 0 || use > yieldRise*float64(runtime.NumCPU()) {
		t.Errorf("after 10 ms or so of work in a second it uses %v processors", use)
	}
}
