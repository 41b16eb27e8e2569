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
	"time"
)

// nightly lengthens the tests that race against chance.
var nightly = os.Getenv("SQ_TEST") == "nightly"

// killWithRequest has the tenant's worker die while it holds a request, and
// returns the answer. The worker is stopped so that it cannot answer before; a
// request that had not come to it yet is found out by the caller.
func killWithRequest(e *Edge, attempt int, method, path, body string) Reply {
	e.t.Helper()
	return killWith(e, attempt, func() (Reply, error) { return e.Try("tok-alpha", method, path, body) })
}

func killWith(e *Edge, attempt int, request func() (Reply, error)) Reply {
	e.t.Helper()
	e.Admin("POST", "workers/alpha/restart", "", 200, nil) // in spite of the backoff
	pid := e.Worker("alpha")
	stop(e.t, pid)
	answer := make(chan Reply, 1)
	go func() {
		got, err := request()
		if err != nil {
			got.Body = err.Error()
		}
		answer <- got
	}()
	time.Sleep(time.Duration(attempt) * 100 * time.Millisecond) // not relied upon
	must(e.t, syscall.Kill(pid, syscall.SIGKILL))
	return <-answer
}

// A read whose worker dies is answered by the next one, once; a GET that writes is
// no read.
func TestReadsOutliveTheirWorker(t *testing.T) {
	t.Parallel()
	var e *Edge
	for _, read := range []struct{ method, path, body, want string }{
		{"GET", "/select?p=notes&c=" + origin, "", "text"},
		{"GET", "/api/v2/documents/notes", "", "text"},
		{"POST", "/delta?p=notes", "", "text"},
		{"POST", "/delta?p=notes", origin + ": 00\n", "text"},
	} {
		// Each with an edge of its own: after some more deaths the breaker would
		// keep the read from the next worker.
		e = Start(t, Setup{})
		e.Want("tok-alpha", "POST", "/insert?p=notes&c="+origin, "text", 200, "Inserted 4 bytes")
		before := e.Metric("sq_reads_repeated_total")
		for attempt := 1; e.Metric("sq_reads_repeated_total") == before; attempt++ {
			if got := killWithRequest(e, attempt, read.method, read.path, read.body); got.Status != 200 || got.Body != read.want {
				t.Fatalf("%s %s: %d %q, want %q", read.method, read.path, got.Status, got.Body, read.want)
			}
			if attempt == 20 {
				t.Fatalf("%s %s: never sent again", read.method, read.path)
			}
		}
	}
	before := e.Metric("sq_reads_repeated_total")
	for i, write := range []struct{ method, path, body string }{
		{"POST", "/insert?p=notes&c=2.1.1/1.1.1/1.1.", "x"},
		{"GET", "/insert?s=x&p=notes&c=3.1.1/1.1.1/1.1.", ""},
	} {
		for attempt := 1; ; attempt++ {
			got := killWithRequest(e, attempt, write.method, write.path+strconv.Itoa(attempt), write.body)
			if got.Status == 502 && strings.Contains(got.Body, "unknown whether the change was made") {
				break
			}
			if got.Status != 200 || attempt == 20 {
				t.Fatalf("write %d, attempt %d: %d %q, want 502 that leaves the outcome open", i, attempt, got.Status, got.Body)
			}
		}
	}
	if after := e.Metric("sq_reads_repeated_total"); after != before {
		t.Errorf("%v writes were sent again", after-before)
	}
	e.Admin("POST", "workers/alpha/restart", "", 200, nil)
	for coordinate, text := range e.Exported("tok-alpha", "notes") {
		if coordinate != origin && text != "x" {
			t.Errorf("%s holds %q: a write was made twice", coordinate, text)
		}
	}
}

// workerEntry is a worker as the admin API shows it.
type workerEntry struct {
	Tenant, State   string
	PID             int
	Since           *time.Time
	Starts, Crashes int
	Memory          int64
	Held            bool
}

func TestAdminWorkers(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	list := func() []workerEntry {
		t.Helper()
		var answer struct{ Workers []workerEntry }
		e.Admin("GET", "workers", "", 200, &answer)
		return answer.Workers
	}
	control := func(path, body, state string, held bool) workerEntry {
		t.Helper()
		var got workerEntry
		e.Admin("POST", "workers/"+path, body, 200, &got)
		if got.Tenant != "alpha" || got.State != state || got.Held != held {
			t.Fatalf("POST %s %s: %+v, want %s, held %v", path, body, got, state, held)
		}
		return got
	}
	if got := list(); len(got) != 0 {
		t.Errorf("before any request: %+v", got)
	}
	e.Want("tok-alpha", "POST", "/insert?c="+origin, "text", 200, "Inserted 4 bytes")
	if got := list(); len(got) != 1 || got[0].Tenant != "alpha" || got[0].State != "ready" || got[0].PID != e.Worker("alpha") ||
		got[0].Starts != 1 || got[0].Crashes != 0 || got[0].Held || got[0].Since == nil || got[0].Memory < 1<<20 {
		t.Errorf("workers: %+v", got)
	}
	for range 2 {
		control("alpha/park", "", "asleep", false)
	}
	e.NoWorkers()
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "text")
	first := control("alpha/restart", "", "ready", false)
	if second := control("alpha/restart", "", "ready", false); second.PID == first.PID {
		t.Errorf("process %d was not restarted", first.PID)
	}

	for _, hold := range [][2]string{{"?hold=true", ""}, {"", `{"hold": true}`}, {"", ""}, {"?hold=false", ""}, {"", "{}"}} {
		control("alpha/park"+hold[0], hold[1], "asleep", true)
		got := e.Do("tok-alpha", "GET", "/select?c="+origin, "")
		if seconds, err := strconv.Atoi(got.Header.Get("Retry-After")); got.Status != 503 || err != nil || seconds < 1 || strings.Contains(got.Body, e.dir) {
			t.Errorf("while it is held: %d %q, Retry-After %q", got.Status, got.Body, got.Header.Get("Retry-After"))
		}
	}
	e.NoWorkers()
	e.Admin("POST", "workers/alpha/restart", "", 409, nil)
	e.Reload("# max_scroll 16MiB", "max_scroll 1MiB") // a hold survives it
	control("alpha/park", "", "asleep", true)
	for range 2 {
		control("alpha/release", "", "asleep", false)
	}
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "text")

	control("alpha/park?hold=true", "", "asleep", true)
	e.Quit()
	e.Boot() // but not a restart of the edge
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "text")

	for _, bad := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "workers/nobody/park", "", 404},
		{"POST", "workers/alpha/sleep", "", 404},
		{"POST", "workers/alpha/park/now", "", 404},
		{"POST", "workers/", "", 404},
		{"POST", "workers", "", 405},
		{"GET", "workers/roll", "", 405},
		{"GET", "workers/alpha/park", "", 405},
		{"DELETE", "workers/alpha/release", "", 405},
		{"POST", "workers/alpha/park?hold=yes", "", 400},
		{"POST", "workers/alpha/park?hold=true&hold=true", "", 400},
		{"POST", "workers/alpha/park?held=true", "", 400},
		{"POST", "workers/alpha/park?hold=%", "", 400},
		{"POST", "workers/alpha/park?hold=true", `{"hold": true}`, 400},
		{"POST", "workers/alpha/park", `{"hold": 1}`, 400},
		{"POST", "workers/alpha/park", `{"held": true}`, 400},
		{"POST", "workers/alpha/park", `{"hold": true}{}`, 400},
		{"POST", "workers/alpha/park", strings.Repeat(" ", 70_000), 413},
	} {
		got := e.Do(adminKey, bad.method, "/api/v2/admin/"+bad.path, bad.body, "Accept: application/json")
		if got.Status != bad.status || got.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s %.20s: %d %q, want %d", bad.method, bad.path, bad.body, got.Status, clip(got.Body), bad.status)
		}
		if got := e.Do("tok-alpha", bad.method, "/api/v2/admin/"+bad.path, bad.body); got.Status != 403 {
			t.Errorf("%s %s with a tenant's key: %d", bad.method, bad.path, got.Status)
		}
	}
}

// A worker without requests is parked by the idle_timeout, which the metrics'
// scrapes do not stretch, and nothing of it is lost.
func TestIdleWorkersArePutToSleep(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	e.edit("# idle_timeout 5m", "idle_timeout 300ms")
	e.Boot()
	e.Want("tok-alpha", "POST", "/insert?c="+origin, "text", 200, "Inserted 4 bytes")
	Eventually(t, "the worker sleeps", func() error {
		if n := e.Metric("sq_workers_running"); n != 0 {
			return fmt.Errorf("%v workers run", n)
		}
		return nil
	})
	e.NoWorkers()
	if got := OnDisk(t, e.Tenant("alpha").DataDir)["default"][origin]; got != "text" {
		t.Errorf("the checkpoint holds %q", got)
	}
	if n := e.Metric(`sq_storage_bytes{tenant="alpha"}`); n != 4 {
		t.Errorf("sq_storage_bytes is %v, want 4", n)
	}
	if n := e.Metric("sq_worker_starts_total"); n != 1 {
		t.Errorf("%v starts: asking for the metrics wakes workers", n)
	}
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "text")
}

// Forced reloads and rolls under the load of 16 tenants: no request fails, and
// none is made twice.
func TestReloadsAndRollsAreInvisible(t *testing.T) {
	t.Parallel()
	reloads, rolls := 10, 5
	if nightly {
		reloads, rolls = 100, 20
	}
	var tenants []Tenant
	for i := range 16 {
		tenants = append(tenants, Tenant{ID: fmt.Sprintf("load-%d", i)})
	}
	worker := filepath.Join(t.TempDir(), "sq-worker")
	replaceFile(t, workerBinary, worker)
	e := Start(t, Setup{Tenants: tenants, Env: []string{"SQ_WORKER=" + worker}})
	var stopped atomic.Bool
	var load sync.WaitGroup
	var requests, failed atomic.Int64
	want := make([]strings.Builder, len(tenants))
	fail := func(format string, args ...any) {
		if failed.Add(1) <= 10 {
			t.Errorf(format, args...)
		}
	}
	for i, tenant := range tenants {
		load.Go(func() { // each appends its tokens to one scroll and reads another
			for n := 0; !stopped.Load(); n++ {
				token := fmt.Sprintf("%d,", n)
				if got, err := e.Try("tok-"+tenant.ID, "POST", fmt.Sprintf("/insert?c=1.1.1/1.1.1/1.1.%d", 1+n/200), token); err != nil || got.Status != 200 {
					fail("%s: write %d: %v, %d %q", tenant.ID, n, err, got.Status, clip(got.Body))
				}
				want[i].WriteString(token)
				if got, err := e.Try("tok-"+tenant.ID, "GET", "/select?c=9.9.9/9.9.9/9.9.9", ""); err != nil || got.Status != 200 || got.Body != "" {
					fail("%s: read %d: %v, %d %q", tenant.ID, n, err, got.Status, clip(got.Body))
				}
				requests.Add(2)
			}
		})
	}
	progress := func(from int64) { // so that each meets requests
		Eventually(t, "requests go on", func() error {
			if n := requests.Load() - from; n < 32 {
				return fmt.Errorf("%d requests", n)
			}
			return nil
		})
	}
	rolled := 0
	for n := range reloads + rolls {
		progress(requests.Load())
		old := e.Workers()
		switch roll := (n+1)*rolls/(reloads+rolls) > n*rolls/(reloads+rolls); {
		case roll && rolled%2 == 0:
			rolled++
			e.Admin("POST", "workers/roll", "", 200, nil)
		case roll:
			rolled++
			replaceFile(t, workerBinary, worker)
			fallthrough
		default:
			e.ReloadForced()
			if !roll {
				continue
			}
		}
		Eventually(t, "all workers are others", func() error {
			for tenant, pids := range e.Workers() {
				for _, pid := range pids {
					if was := old[tenant]; len(was) == 1 && was[0] == pid {
						return fmt.Errorf("%s has the worker %d still", tenant, pid)
					}
				}
			}
			return nil
		})
	}
	progress(requests.Load())
	stopped.Store(true)
	load.Wait()
	for i, tenant := range tenants {
		var all strings.Builder
		exported := e.Exported("tok-"+tenant.ID, "default")
		for n := 1; n <= len(exported); n++ {
			all.WriteString(exported[fmt.Sprintf("1.1.1/1.1.1/1.1.%d", n)])
		}
		if all.String() != want[i].String() {
			t.Errorf("%s: the scrolls are not what was inserted, each once and in order", tenant.ID)
		}
		if starts := e.Stats(tenant.ID).Worker.Starts; starts < rolls {
			t.Errorf("%s: %d starts in %d rolls", tenant.ID, starts, rolls)
		}
	}
	t.Logf("%d reloads and %d rolls: %d requests, %d failed", reloads, rolls, requests.Load(), failed.Load())
}

// replaceFile copies a file and renames the copy over another, as an upgrade
// does.
func replaceFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to+".new", data, 0o700))
	must(t, os.Rename(to+".new", to))
}
