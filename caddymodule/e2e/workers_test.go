package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestOneWorkerStartFor200ConcurrentFirstRequests(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	var ready, done sync.WaitGroup
	gate := make(chan struct{})
	for i := range 200 {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-gate
			path := fmt.Sprintf("/insert?p=first&c=1.1.1/1.1.1/1.1.%d", i+1)
			if got, err := e.Try("tok-alpha", "POST", path, "x"); err != nil || got.Status != 200 {
				t.Errorf("request %d: %v, %d %q", i, err, got.Status, got.Body)
			}
		})
	}
	ready.Wait()
	close(gate)
	done.Wait()
	if starts := e.Metric("sq_worker_starts_total"); starts != 1 {
		t.Errorf("%v workers were started, want 1", starts)
	}
	stats := e.Stats("alpha")
	if stats.Worker.Starts != 1 || stats.Worker.PID != e.Worker("alpha") || stats.Scrolls != 200 {
		t.Errorf("stats: %+v, want 1 start of %d and 200 scrolls", stats, e.Worker("alpha"))
	}
}

func TestWorkerDeathFailsTheRequestItHadAtOnce(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	alpha := e.Tenant("alpha")
	e.Want(alpha.Key, "POST", "/insert?p=kept&c="+origin, "kept", 200, "Inserted 4 bytes")
	upload := e.Upload(alpha, "half", strings.Repeat("x", 100_000))
	must(t, syscall.Kill(e.Worker("alpha"), syscall.SIGKILL))
	// Its text never ends: only the noticed death can answer it.
	if got := upload.Wait(t); got.Status != 502 || !strings.Contains(got.Body, "unknown whether") {
		t.Errorf("the upload got %d %q, want 502 that leaves the outcome open", got.Status, got.Body)
	}
	e.Want(alpha.Key, "GET", "/select?p=kept&c="+origin, "", 200, "kept")
	if got := e.Do(alpha.Key, "GET", "/api/v2/documents/half", ""); got.Status != 404 {
		t.Errorf("the broken upload left a document: %d %q", got.Status, clip(got.Body))
	}
}

func TestWorkerKilledUnderLoadIsReplacedAndKeepsAcknowledgedWrites(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	w := NewWriters(e, "tok-alpha", 8)
	w.Run()
	for range 3 {
		w.AwaitMore(20)
		old := e.Worker("alpha")
		must(t, syscall.Kill(old, syscall.SIGKILL))
		Eventually(t, "a new worker serves", func() error {
			got, err := e.Try("tok-alpha", "GET", "/version", "")
			if pids := e.Workers()["alpha"]; err != nil || got.Status != 200 || len(pids) != 1 || pids[0] == old {
				return fmt.Errorf("%v, %d %q, workers %v", err, got.Status, got.Body, pids)
			}
			return nil
		})
	}
	w.AwaitMore(20)
	w.Halt()
	w.Verify()
	if faults := w.Unexpected(); len(faults) > 0 {
		t.Errorf("answers other than 200, 502, 503: %v", faults)
	}
	if strings.Contains(e.Log(), "did not answer in time") {
		t.Error("a death was noticed by a timeout")
	}
}

func TestWorkersSurviveReload(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	for _, key := range []string{"tok-alpha", "tok-beta"} {
		e.Want(key, "POST", "/insert?c="+origin, "text", 200, "Inserted 4 bytes")
	}
	alpha, beta := e.Worker("alpha"), e.Worker("beta")

	// Requests go on all the while.
	var stop atomic.Bool
	var load sync.WaitGroup
	served := make(chan struct{}, 1)
	for range 4 {
		load.Go(func() {
			for !stop.Load() {
				if got, err := e.Try("tok-alpha", "GET", "/select?c="+origin, ""); err != nil || got.Status != 200 || got.Body != "text" {
					t.Errorf("during a reload: %v, %d %q", err, got.Status, got.Body)
					return
				}
				select {
				case served <- struct{}{}:
				default:
				}
			}
		})
	}
	<-served
	e.Reload("# cors_origin *", "cors_origin https://app.example.com")
	<-served
	e.Reload("# max_scroll 16MiB", "max_scroll 1KiB")
	<-served
	stop.Store(true)
	load.Wait()

	if e.Worker("alpha") != alpha || e.Worker("beta") != beta {
		t.Errorf("workers %v, want %d and %d", e.Workers(), alpha, beta)
	}
	if got := e.Do("tok-alpha", "GET", "/version", "", "Origin: https://app.example.com").Header.Get("Access-Control-Allow-Origin"); got != "https://app.example.com" {
		t.Errorf("the new cors_origin is not in force: %q", got)
	}
	if got := e.Do("tok-alpha", "POST", "/insert?c="+origin, strings.Repeat("x", 1025)); got.Status != 413 {
		t.Errorf("the new max_scroll is not in force: %d %q", got.Status, got.Body)
	}
	if starts := e.Metric("sq_worker_starts_total"); starts != 2 {
		t.Errorf("%v starts, want 2: the counters go on too", starts)
	}
}

func TestReloadWithOtherTimeoutsOrPathsRollsOnlyWhatNeedsIt(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	want := 0
	write := func() {
		t.Helper()
		want++
		for _, key := range []string{"tok-alpha", "tok-beta"} {
			e.Want(key, "POST", "/insert?c=1.1.1/1.1.1/1.1."+strconv.Itoa(want), "text", 200, "Inserted 4 bytes")
			if got := e.Exported(key, "default"); len(got) != want {
				t.Fatalf("%s has %d scrolls, want %d: %v", key, len(got), want, got)
			}
		}
	}
	write()
	alpha, beta := e.Worker("alpha"), e.Worker("beta")
	run2, data2, config2 := filepath.Join(e.dir, "run2"), filepath.Join(e.dir, "data2"), filepath.Join(e.dir, "tenants2.json")
	gamma := e.Tenant("gamma")
	must(t, os.Mkdir(gamma.DataDir, 0o700))
	must(t, os.WriteFile(config2, Encode(t, e.Tenant("alpha"), e.Tenant("beta"), gamma), 0o600))
	for _, change := range [][2]string{
		{"# drain_timeout 20s", "drain_timeout 5s"},
		{"# response_timeout 60s", "response_timeout 30s"},
		{"# start_timeout 15s", "start_timeout 10s"},
		{`"{$SQ_RUN_DIR:/run/sq}"`, run2},
		{`"{$SQ_DATA_ROOT:/var/lib/sq/tenants}"`, data2},
		{`"{$SQ_CONFIG:/etc/sq/tenants.json}"`, config2},
	} {
		e.Reload(change[0], change[1])
		if change[1] == run2 {
			Eventually(t, "the workers are rolled to the new run_dir", func() error {
				if n := e.Metric(`sq_worker_transitions_total{from="draining",to="asleep"}`); n != 2 {
					return fmt.Errorf("%v workers have gone", n)
				}
				return nil
			})
			write()
			alpha, beta = e.Worker("alpha"), e.Worker("beta")
		}
		write()
		if e.Worker("alpha") != alpha || e.Worker("beta") != beta {
			t.Fatalf("after %q: workers %v, want %d and %d", change[1], e.Workers(), alpha, beta)
		}
	}
	if stats := e.Stats("alpha"); stats.Total != uint64(2*want) || stats.Worker.Starts != 2 {
		t.Errorf("%d calls and %d starts counted, want %d and 2", stats.Total, stats.Worker.Starts, 2*want)
	}

	// The new options hold for what happens from now on.
	e.Want(gamma.Key, "GET", "/toc", "", 200, "")
	if _, err := os.Stat(filepath.Join(run2, "gamma.sock")); err != nil {
		t.Errorf("the new run_dir is not in force: %v", err)
	}
	var added struct {
		DataDir string `json:"data_dir"`
	}
	if e.Admin("POST", "tenants/add", `{"tenant_id": "delta"}`, 200, &added); added.DataDir != filepath.Join(data2, "delta") {
		t.Errorf("the new data_root is not in force: %q", added.DataDir)
	}
	must(t, os.WriteFile(config2, Encode(t, e.Tenant("alpha")), 0o600))
	e.AwaitStatus("tok-beta", 401)
	e.WriteTenants() // the file that was watched before
	e.AwaitStatus("tok-alpha", 200)
	e.Quit()
	e.Boot()
	if total := e.Stats("alpha").Total; total < uint64(2*want) {
		t.Errorf("%d calls counted after a restart, want at least %d", total, 2*want)
	}
}

func TestFailedReloadLeavesTheOldOptionsInForce(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	e.Want("tok-alpha", "POST", "/insert?c="+origin, "text", 200, "Inserted 4 bytes")
	pid := e.Worker("alpha")
	bad, config2 := filepath.Join(e.dir, "Bad"), filepath.Join(e.dir, "tenants2.json")
	must(t, os.WriteFile(config2, Encode(t), 0o600)) // a valid file without tenants
	data, err := os.ReadFile(filepath.Join(e.dir, "Caddyfile"))
	must(t, err)
	for _, tt := range []struct{ name, old, new string }{
		{"fails before anything starts", "\tsq_admin\n", "\ttls /no/such/cert /no/such/key\n\tsq_admin\n"},
		{"fails in the sq app", `"{$SQ_CONFIG:/etc/sq/tenants.json}"`, "/no/such/file"},
		{"fails elsewhere, before or after the sq app has started", "\tsq_admin\n", "\tbind 192.0.2.1\n\tsq_admin\n"},
	} {
		text := strings.Replace(string(data), tt.old, tt.new, 1)
		if text == string(data) {
			t.Fatalf("%s: the Caddyfile lacks %q", tt.name, tt.old)
		}
		if !strings.Contains(text, "/no/such/file") {
			text = strings.Replace(text, `"{$SQ_CONFIG:/etc/sq/tenants.json}"`, config2, 1)
		}
		must(t, os.WriteFile(bad, []byte(text), 0o600))
		for range 4 { // in whatever order Caddy starts its apps
			if out, err := e.Caddy("reload", "--config", bad, "--adapter", "caddyfile"); err == nil {
				t.Fatalf("%s: the reload succeeded:\n%s", tt.name, out)
			}
			e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "text")
			e.Want("tok-beta", "GET", "/select?c="+origin, "", 200, "")
		}
		if active := e.Metric("sq_tenants_active"); active != 2 {
			t.Errorf("%s: %v tenants active, want 2", tt.name, active)
		}
	}
	if e.Worker("alpha") != pid {
		t.Errorf("workers %v, want %d", e.Workers(), pid)
	}
}

func TestSIGTERMDrainsWorkersAndLeavesAllInTheDocuments(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	w := NewWriters(e, "tok-alpha", 8)
	w.Run()
	w.AwaitMore(200)
	w.Halt()
	w.Verify()
	e.Quit()
	if left := e.Workers(); len(left) > 0 {
		t.Fatalf("workers left: %v", left)
	}
	// What the log holds beyond the documents is nothing: the service goes on
	// without it, once somebody has said that this is the tenant's directory.
	must(t, os.RemoveAll(filepath.Join(e.Tenant("alpha").DataDir, ".sq")))
	w.VerifyDisk(e.Tenant("alpha").DataDir)
	e.Boot()
	if got := e.Do(adminKey, "POST", "/api/v2/admin/tenants/alpha/adopt", ""); got.Status != 200 {
		t.Fatalf("adopt: %d %q", got.Status, got.Body)
	}
	w.Verify()
}

func TestWorkersEndByThemselvesWhenTheEdgeIsKilled(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	for _, key := range []string{"tok-alpha", "tok-beta"} {
		e.Want(key, "POST", "/insert?c="+origin, "text", 200, "Inserted 4 bytes")
	}
	e.Kill()
	e.NoWorkers()
	for _, tenant := range []string{"alpha", "beta"} {
		if got := OnDisk(t, e.Tenant(tenant).DataDir)["default"][origin]; got != "text" {
			t.Errorf("%s's document holds %q", tenant, got)
		}
	}
}

func TestSuccessorOfAKilledEdgeServesEveryAcknowledgedWrite(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	w := NewWriters(e, "tok-alpha", 4)
	for range 3 {
		w.Run()
		w.AwaitMore(50)
		e.Kill() // its worker is still there when the successor's starts
		w.Halt()
		e.Boot()
		w.Verify()
	}
}

func TestEdgeRefusesToStartWithoutAWorkerBinary(t *testing.T) {
	t.Parallel()
	notExecutable := filepath.Join(t.TempDir(), "sq-worker")
	must(t, os.WriteFile(notExecutable, []byte("#!/bin/sh\n"), 0o600))
	for _, tt := range []struct{ name, path, want string }{
		{"missing", "/no/such/sq-worker", "no such file or directory"},
		{"a directory", t.TempDir(), "not an executable file"},
		{"not executable", notExecutable, "not an executable file"},
	} {
		e := Prepare(t, Setup{Env: []string{"SQ_WORKER=" + tt.path}})
		out := e.StartFails()
		for _, want := range []string{tt.want, tt.path, "SQ_WORKER", "xcaddy.sh build"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: the message lacks %q:\n%s", tt.name, want, tail(out, 1000))
			}
		}
	}
}

func TestTenantWhoseWorkerCannotStartIsUnavailableAlone(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	dir := e.Tenant("beta").DataDir
	must(t, os.Remove(dir))
	for range 3 {
		got := e.Do("tok-beta", "GET", "/toc", "")
		seconds, err := strconv.Atoi(got.Header.Get("Retry-After"))
		if got.Status != 503 || err != nil || seconds < 1 || strings.Contains(got.Body, e.dir) {
			t.Fatalf("beta: %d %q, Retry-After %q", got.Status, got.Body, got.Header.Get("Retry-After"))
		}
		e.Want("tok-alpha", "POST", "/insert?c="+origin, "x", 200, "Inserted 1 bytes")
	}
	if !strings.Contains(e.Log(), "data directory "+dir+" is not there") {
		t.Error("the log does not say why")
	}
	var health struct{ Status string }
	if e.Admin("GET", "health", "", 200, &health); health.Status != "degraded" {
		t.Errorf("health says %q", health.Status)
	}
	must(t, os.Mkdir(dir, 0o700))
	Eventually(t, "beta is served once its directory is there", func() error {
		if got := e.Do("tok-beta", "POST", "/update?c="+origin, "x"); got.Status != 200 {
			return fmt.Errorf("%d %q", got.Status, got.Body)
		}
		return nil
	})
}
