package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sqedge/sqedge/shared/wire"
)

// buildWorker builds the real worker, with the race detector if the test has it.
var buildWorker = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sq")
	if err != nil {
		return "", err
	}
	builtIn = dir
	path := filepath.Join(dir, "sq-worker")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "../../worker")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the worker: %w\n%s", err, out)
	}
	return path, nil
})

// builtIn is the directory that TestMain removes in the end.
var builtIn string

func mustBuildWorker(t *testing.T) string {
	t.Helper()
	path, err := buildWorker()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// insert appends text to the tenant's document "notes" at its n-th scroll.
func insert(ctx context.Context, s *Supervisor, spec Spec, n int, text string) error {
	r := request(http.MethodPost, fmt.Sprintf("/insert?c=%s.1.1.1/1.1.1/1.1.%d&p=notes", spec.Tenant, n), text)
	r.Header.Add(wire.HeaderQuota, "0")
	got, err := do(ctx, s, spec, r)
	if err == nil && got != fmt.Sprintf("Inserted %d bytes", len(text)) {
		err = fmt.Errorf("insert answered %q", got)
	}
	return err
}

func TestRealWorker(t *testing.T) {
	s, _ := mustNew(t, Config{Worker: mustBuildWorker(t)})
	spec := mustSpec(t, "acme")
	if err := insert(testContext(t), s, spec, 1, "kept"); err != nil {
		t.Fatal(err)
	}
	pid := s.Status("acme").PID
	mustKill(t, pid, syscall.SIGKILL)
	waitFor(t, "the death to be noticed", func() bool { return s.Status("acme").PID != pid })
	if got := mustGet(t, s, spec, "/select?c=acme.1.1.1/1.1.1/1.1.1&p=notes"); got != "kept" {
		t.Errorf("after a kill the scroll is %q", got)
	}
	_, err := do(testContext(t), s, spec, request(http.MethodGet, "/select?c=other.1.1.1/1.1.1/1.1.1&p=notes", ""))
	if err == nil || !strings.HasPrefix(err.Error(), "421 ") {
		t.Errorf("a request for another tenant: %v, want 421", err)
	}
	var stats wire.Stats
	if err := json.Unmarshal([]byte(mustGet(t, s, spec, wire.PathStats+"?c=acme")), &stats); err != nil || stats.Misdirected != 1 {
		t.Errorf("the worker's stats are %+v, %v; want one misdirected request", stats, err)
	}
	if err := s.Stop(testContext(t), "acme"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(spec.DataDir, "notes.phext")); err != nil || string(text) != "kept" {
		t.Errorf("after a drain the document's file holds %q, %v", text, err)
	}
	if st := s.Status("acme"); st.State != Asleep || st.Crashes != 1 {
		t.Errorf("status %+v, want asleep after one crash", st)
	}
}

// A start that the worker refuses carries its reason to the log, not a path to
// the client: the gateway shows neither.
func TestRealWorkerRefusesDirectory(t *testing.T) {
	s, _ := mustNew(t, Config{Worker: mustBuildWorker(t)})
	spec := Spec{Tenant: "acme", DataDir: filepath.Join(t.TempDir(), "file")}
	if err := os.WriteFile(spec.DataDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := do(testContext(t), s, spec, request(http.MethodGet, "/version?c=acme", ""))
	if u := wantUnavailable(t, err); !strings.Contains(u.Error(), "not a directory") {
		t.Errorf("error %v, want the worker's reason", u)
	}
}

// Inserts race with stops of the real worker: each is made exactly once.
func TestRealWorkerStopsAreInvisible(t *testing.T) {
	const clients, cycles = 4, 30
	s, _ := mustNew(t, Config{Worker: mustBuildWorker(t)})
	spec := mustSpec(t, "acme")
	ctx, cancel := context.WithTimeout(t.Context(), 10*deadline)
	defer cancel()
	var stopped atomic.Bool
	var group sync.WaitGroup
	want := make([]strings.Builder, clients)
	for c := range clients {
		group.Go(func() {
			for n := 0; !stopped.Load() && !t.Failed(); n++ {
				text := fmt.Sprintf("%d,", n)
				if err := insert(ctx, s, spec, c+1, text); err != nil {
					t.Errorf("insert %d of client %d: %v", n, c, err)
				}
				want[c].WriteString(text)
			}
		})
	}
	for range cycles {
		if err := s.Stop(ctx, "acme"); err != nil {
			t.Error(err)
		}
		mustGet(t, s, spec, "/version?c=acme")
	}
	stopped.Store(true)
	group.Wait()
	for c := range want {
		if got := mustGet(t, s, spec, fmt.Sprintf("/select?c=acme.1.1.1/1.1.1/1.1.%d&p=notes", c+1)); got != want[c].String() {
			t.Errorf("client %d: the scroll is not what was inserted, each once and in order", c)
		}
	}
	if st := s.Status("acme"); st.Starts < cycles || st.Crashes > 0 {
		t.Errorf("status %+v, want %d starts and no crash", st, cycles)
	}
}

// The worker of a killed edge ends by itself, checkpoints, and frees the data
// for the next edge's worker.
func TestRealWorkerOutlivesNoEdge(t *testing.T) {
	worker, spec := mustBuildWorker(t), mustSpec(t, "acme")
	mustEdgeDie(t, worker, spec, "/version?c=acme")
	s, _ := mustNew(t, Config{Worker: worker})
	if err := insert(testContext(t), s, spec, 1, "next"); err != nil {
		t.Fatal(err)
	}
}

// A second worker for the same data waits for the first one to end.
func TestRealWorkerHandsOver(t *testing.T) {
	worker, spec := mustBuildWorker(t), mustSpec(t, "acme")
	first, _ := mustNew(t, Config{Worker: worker})
	second, _ := mustNew(t, Config{Worker: worker})
	if err := insert(testContext(t), first, spec, 1, "first "); err != nil {
		t.Fatal(err)
	}
	inserted := make(chan error, 1)
	go func() { inserted <- insert(testContext(t), second, spec, 1, "second") }()
	waitFor(t, "the second worker's process", func() bool { return second.Status("acme").PID != 0 })
	if err := first.Stop(testContext(t), "acme"); err != nil {
		t.Fatal(err)
	}
	if err := <-inserted; err != nil {
		t.Fatal(err)
	}
	if got := mustGet(t, second, spec, "/select?c=acme.1.1.1/1.1.1/1.1.1&p=notes"); got != "first second" {
		t.Errorf("the scroll is %q", got)
	}
}

// Under kills, what the real worker acknowledged is there, and nothing twice.
func TestRealWorkerUnderKills(t *testing.T) {
	s, _ := mustNew(t, Config{Worker: mustBuildWorker(t)})
	spec := mustSpec(t, "acme")
	ctx := testContext(t)
	const kills, between = 4, 20 // one more, and requests would be refused for a while
	acked := map[string]bool{}
	n := 0
	for range kills {
		for range between {
			n++
			text := fmt.Sprintf("<%d>", n)
			err := insert(ctx, s, spec, 1, text)
			var died *ErrDied
			switch {
			case err == nil:
				acked[text] = true
			case !errors.As(err, &died):
				t.Fatal(err)
			}
		}
		// Killed while the next insert is under way.
		if st := s.Status("acme"); st.PID != 0 {
			go syscall.Kill(st.PID, syscall.SIGKILL)
		}
	}
	waitFor(t, "the last death", func() bool { return s.Status("acme").Crashes == kills })
	got := mustGet(t, s, spec, "/select?c=acme.1.1.1/1.1.1/1.1.1&p=notes")
	for i := range n {
		text := fmt.Sprintf("<%d>", i+1)
		if count := strings.Count(got, text); count > 1 || acked[text] && count == 0 {
			t.Errorf("insert %s, acknowledged %t, is there %d times", text, acked[text], count)
		}
	}
}
