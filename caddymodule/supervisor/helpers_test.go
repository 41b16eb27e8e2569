package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// deadline bounds a test's waiting for what must happen; no test measures it.
const deadline = time.Minute

// mustNew returns a supervisor of fake workers with cfg's timeouts, closed when
// the test ends, and what it logs. Its workers' states must follow each other as
// moves says.
func mustNew(t *testing.T, cfg Config) (*Supervisor, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	if cfg.Worker == "" {
		cfg.Worker = mustExecutable(t)
	}
	cfg.RunDir, cfg.Logger = mustRunDir(t), zap.New(core)
	heard := cfg.OnTransition
	var mu sync.Mutex
	states := make(map[string]State)
	cfg.OnTransition = func(tr Transition) {
		mu.Lock()
		defer mu.Unlock()
		if was := cmp.Or(states[tr.Tenant], Asleep); was != tr.From || !slices.Contains(moves, [2]State{tr.From, tr.To}) {
			t.Errorf("%s was %s and goes from %s to %s (%s)", tr.Tenant, was, tr.From, tr.To, tr.Reason)
		}
		states[tr.Tenant] = tr.To
		if heard != nil {
			heard(tr)
		}
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		for _, e := range logs.FilterMessage("worker wrote to stderr").All() {
			if line := fmt.Sprint(e.ContextMap()["line"]); strings.Contains(line, "DATA RACE") {
				t.Error("a worker wrote: " + line)
			}
		}
		if t.Failed() {
			for _, e := range logs.All() {
				t.Log(e.Level, e.Message, e.ContextMap())
			}
		}
	})
	return s, logs
}

func mustExecutable(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// mustRunDir returns a path short enough for sockets; a test's own temporary
// directory, which has its name, may not be.
func mustRunDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run")
}

func mustSpec(t *testing.T, tenant string) Spec {
	t.Helper()
	return Spec{Tenant: tenant, DataDir: t.TempDir()}
}

// mustFault makes the next worker of spec have a fault; "" heals it.
func mustFault(t *testing.T, spec Spec, fault string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(spec.DataDir, "fault"), []byte(fault), 0o600); err != nil {
		t.Fatal(err)
	}
}

func request(method, target, body string) *Request {
	return &Request{Method: method, Target: target, Body: strings.NewReader(body), ContentLength: int64(len(body))}
}

// do sends a request and reads its whole answer.
func do(ctx context.Context, s *Supervisor, spec Spec, r *Request) (string, error) {
	resp, err := s.RoundTrip(ctx, spec, r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return string(body), err
	}
	if resp.StatusCode != http.StatusOK {
		return string(body), fmt.Errorf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return string(body), nil
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func mustGet(t *testing.T, s *Supervisor, spec Spec, uri string) string {
	t.Helper()
	body, err := do(testContext(t), s, spec, request(http.MethodGet, uri, ""))
	if err != nil {
		t.Fatalf("GET %s: %v", uri, err)
	}
	return body
}

// mustPID returns the process that answers for spec.
func mustPID(t *testing.T, s *Supervisor, spec Spec) int {
	t.Helper()
	first, _, _ := strings.Cut(mustGet(t, s, spec, "/who"), " ")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// waitFor waits until what is so.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	end := time.After(deadline)
	for !so() {
		select {
		case <-time.After(time.Millisecond):
		case <-end:
			t.Fatalf("waited %v in vain for %s", deadline, what)
		}
	}
}

func mustKill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("signalling %d: %v", pid, err)
	}
}

// mustBeFree waits until no worker owns spec's data directory.
func mustBeFree(t *testing.T, spec Spec) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(spec.DataDir, "owner"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	free := make(chan error, 1)
	go func() {
		defer f.Close()
		free <- syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}()
	select {
	case err := <-free:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(deadline):
		t.Fatalf("a worker still owns the data of %s", spec.Tenant)
	}
}

func wantUnavailable(t *testing.T, err error) *ErrUnavailable {
	t.Helper()
	var unavailable *ErrUnavailable
	if !errors.As(err, &unavailable) {
		t.Fatalf("error %v, want an ErrUnavailable", err)
	}
	return unavailable
}

func wantDied(t *testing.T, err error, unsent bool) {
	t.Helper()
	var died *ErrDied
	if !errors.As(err, &died) {
		t.Fatalf("error %v, want an ErrDied", err)
	}
	if died.Unsent != unsent {
		t.Fatalf("error %v with Unsent %t, want %t", err, died.Unsent, unsent)
	}
}

// mustHeal lets a broken worker's backoff pass.
func mustHeal(t *testing.T, s *Supervisor, clock *clockwork.FakeClock, tenant string) {
	t.Helper()
	if err := clock.BlockUntilContext(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(s.Status(tenant).RetryIn)
	waitFor(t, "the backoff to be over", func() bool { return s.Status(tenant).State != Broken })
}

// mustUpdate changes options that are in force.
func mustUpdate(t *testing.T, s *Supervisor, change func(*Config)) {
	t.Helper()
	cfg := *s.cfg.Load()
	change(&cfg)
	if err := s.Update(cfg); err != nil {
		t.Fatal(err)
	}
}

// mustReplace puts another file with the same content in a binary's place.
func mustReplace(t *testing.T, binary string) {
	t.Helper()
	data, err := os.ReadFile(mustExecutable(t))
	if err == nil {
		err = os.WriteFile(binary+".new", data, 0o700)
	}
	if err == nil {
		err = os.Rename(binary+".new", binary)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// openFiles returns how many descriptors this process has, or 0 where that is not
// known.
func openFiles(t *testing.T) int {
	t.Helper()
	files, _ := os.ReadDir("/proc/self/fd")
	if len(files) == 0 {
		t.Skip("skipped: this system does not say what files a process has open")
	}
	return len(files)
}

func mustScript(t *testing.T, path, script string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\nPATH=/bin:/usr/bin\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}
