package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Requests race with stops: none fails, and no write is executed twice or lost.
func TestStopIsInvisible(t *testing.T) {
	const tenants, clients = 5, 4
	cycles := 40
	if nightly {
		cycles = 400
	}
	s, _ := mustNew(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*deadline)
	defer cancel()
	var all sync.WaitGroup
	for i := range tenants {
		spec := mustSpec(t, fmt.Sprintf("t%d", i))
		var stopped atomic.Bool
		var sent atomic.Int64
		var group sync.WaitGroup
		for c := range clients {
			group.Go(func() {
				for n := 0; !stopped.Load() && !t.Failed(); n++ {
					if _, err := do(ctx, s, spec, request(http.MethodPost, "/execute", fmt.Sprintf("%d.%d", c, n))); err != nil {
						t.Errorf("%s: write %d.%d: %v", spec.Tenant, c, n, err)
					}
					sent.Add(1)
				}
			})
		}
		all.Go(func() {
			for range cycles {
				if err := s.Stop(ctx, spec.Tenant); err != nil {
					t.Error(err)
				}
				// So that a worker ends that has served, not one that begins.
				if _, err := do(ctx, s, spec, request(http.MethodGet, "/who", "")); err != nil {
					t.Errorf("%s: read: %v", spec.Tenant, err)
				}
			}
			stopped.Store(true)
			group.Wait()
			executed := readLines(t, filepath.Join(spec.DataDir, "executed"))
			seen := map[string]bool{}
			for _, id := range executed {
				seen[id] = true
			}
			if len(executed) != int(sent.Load()) || len(seen) != len(executed) {
				t.Errorf("%s: %d writes were answered, %d executed, %d of them different", spec.Tenant, sent.Load(), len(executed), len(seen))
			}
			if st := s.Status(spec.Tenant); st.Starts < cycles || st.Crashes > 0 {
				t.Errorf("%s: %d starts and %d crashes in %d cycles", spec.Tenant, st.Starts, st.Crashes, cycles)
			}
			t.Logf("%s: %d starts, %d writes", spec.Tenant, s.Status(spec.Tenant).Starts, sent.Load())
		})
	}
	all.Wait()
}

func TestStopWithoutWorker(t *testing.T) {
	s, _ := mustNew(t, Config{})
	if err := s.Stop(testContext(t), "nobody"); err != nil {
		t.Fatal(err)
	}
}

// A stop lets a request in flight end, and does not wait longer than its ctx.
func TestStopWaitsForRequest(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	resp, err := s.RoundTrip(testContext(t), spec, request(http.MethodGet, "/stream", ""))
	if err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("no time")
	cancel(reason)
	if err := s.Stop(impatient, "acme"); !errors.Is(err, reason) {
		t.Fatalf("error %v, want %v", err, reason)
	}
	if st := s.Status("acme"); st.State != Draining || st.PID == 0 {
		t.Fatalf("status %+v, want draining", st)
	}
	resp.Body.Close()
	if err := s.Stop(testContext(t), "acme"); err != nil {
		t.Fatal(err)
	}
	mustBeFree(t, spec)
}

func TestWorkerThatIgnoresDrainIsKilled(t *testing.T) {
	s, _ := mustNew(t, Config{DrainTimeout: 200 * time.Millisecond})
	spec := mustSpec(t, "acme")
	mustFault(t, spec, faultNoDrain)
	mustGet(t, s, spec, "/who")
	if err := s.Stop(testContext(t), "acme"); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(s.metrics.exits.WithLabelValues(exitKilled)); n != 1 {
		t.Errorf("%v exits as killed, want 1", n)
	}
	mustFault(t, spec, "")
	mustGet(t, s, spec, "/who") // without a backoff: the end was asked for
	if st := s.Status("acme"); st.Crashes != 0 {
		t.Errorf("status %+v, want no crash", st)
	}
}

// A tenant whose data moves is served from where it is now, and never from two
// places.
func TestMovedTenant(t *testing.T) {
	s, _ := mustNew(t, Config{})
	from, to := mustSpec(t, "acme"), mustSpec(t, "acme")
	for _, spec := range []Spec{from, to, from} {
		if got := mustGet(t, s, spec, "/who"); !strings.HasSuffix(got, spec.DataDir) {
			t.Fatalf("answer %q from another directory than %s", got, spec.DataDir)
		}
	}
}

func TestCloseLeavesNoProcess(t *testing.T) {
	s, _ := mustNew(t, Config{DrainTimeout: 2 * time.Second})
	var pids []int
	for i := range 6 {
		spec := mustSpec(t, fmt.Sprintf("t%d", i))
		if i == 0 {
			mustFault(t, spec, faultNoDrain)
		}
		pids = append(pids, mustPID(t, s, spec))
	}
	starting := mustSpec(t, "starting")
	mustFault(t, starting, faultNeverReady)
	startErr := make(chan error, 1)
	go func() {
		_, err := do(testContext(t), s, starting, request(http.MethodGet, "/who", ""))
		startErr <- err
	}()
	waitFor(t, "the last worker's process", func() bool { return s.Status("starting").PID != 0 })
	pids = append(pids, s.Status("starting").PID)
	if err := s.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
			t.Errorf("process %d exists: %v", pid, err)
		}
	}
	wantUnavailable(t, <-startErr)
	_, err := do(testContext(t), s, starting, request(http.MethodGet, "/who", ""))
	if u := wantUnavailable(t, err); !errors.Is(u, errClosing) {
		t.Errorf("error %v, want %v", u, errClosing)
	}
}

// Close does not outlast its context.
func TestCloseKillsWhenContextEnds(t *testing.T) {
	s, _ := mustNew(t, Config{DrainTimeout: deadline})
	spec := mustSpec(t, "acme")
	mustFault(t, spec, faultNoDrain)
	pid := mustPID(t, s, spec)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("process %d exists: %v", pid, err)
	}
}

// An edge that is killed leaves no worker behind.
func TestKilledEdgeEndsWorkers(t *testing.T) {
	spec := mustSpec(t, "acme")
	mustEdgeDie(t, mustExecutable(t), spec, "/who")
	mustBeFree(t, spec)
}

// mustEdgeDie runs an edge of its own that starts a worker by a request for uri,
// and kills it once the worker has answered. It returns the spares that were there.
func mustEdgeDie(t *testing.T, worker string, spec Spec, uri string) (spares []int) {
	t.Helper()
	edge := exec.CommandContext(testContext(t), mustExecutable(t), "edge", worker, mustRunDir(t), spec.Tenant, spec.DataDir, uri)
	out, err := edge.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := edge.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "200" {
		t.Log(lines.Text()) // the edge's log
		if list, ok := strings.CutPrefix(lines.Text(), "spares ["); ok {
			for pid := range strings.FieldsSeq(strings.TrimSuffix(list, "]")) {
				n, err := strconv.Atoi(pid)
				if err != nil {
					t.Fatal(err)
				}
				spares = append(spares, n)
			}
		}
	}
	if lines.Text() != "200" {
		t.Errorf("the edge got no answer")
	}
	edge.Process.Kill()
	edge.Wait()
	return spares
}
