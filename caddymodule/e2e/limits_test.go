package e2e

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// SetLimits gives alpha limits in tenants.json and waits until they are in
// force, without a request of alpha's.
func (e *Edge) SetLimits(limits map[string]int) {
	e.t.Helper()
	alpha := e.Tenant("alpha")
	alpha.Limits = limits
	alpha.QuotaMB = 300
	e.setTenants(alpha, e.Tenant("beta"))
}

func (e *Edge) setTenants(tenants ...Tenant) {
	e.t.Helper()
	const reloaded = "sq_config_last_reload_success_timestamp_seconds"
	before := e.Metric(reloaded)
	e.WriteTenants(tenants...)
	Eventually(e.t, "the tenants are in force", func() error {
		if e.Metric(reloaded) == before {
			return errors.New("the file was not taken up")
		}
		return nil
	})
}

// wantLimit checks a refusal by the limit name.
func wantLimit(t *testing.T, got Reply, name string) {
	t.Helper()
	seconds, err := strconv.Atoi(got.Header.Get("Retry-After"))
	if got.Status != 429 || err != nil || !strings.HasPrefix(got.Body, name+": ") || !strings.HasSuffix(got.Body, fmt.Sprintf("; try again in %d s", seconds)) {
		t.Errorf("%d %q, Retry-After %q, want 429 by %s", got.Status, got.Body, got.Header.Get("Retry-After"), name)
	}
	if !regexp.MustCompile(`"` + name + `";r=0`).MatchString(got.Header.Get("RateLimit")) {
		t.Errorf("refused by %s with RateLimit: %s", name, got.Header.Get("RateLimit"))
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	e.Run("a day's requests are kept in mind", testADaysRequestsAreKeptInMind)
	e.Run("rate", testRate)
	e.Run("every answer tells them", testEveryAnswerTellsTheLimits)
	e.Run("concurrent requests", testConcurrentRequests)
	e.Run("streams", testOpenStreams)
	e.Run("sizes", testSizes)
	e.Run("memory", testWorkersMemory)
	e.Run("defaults", testDefaultLimits)
}

// testADaysRequestsAreKeptInMind across a changed limit, a config reload and a
// restart, and forgotten with the tenant.
func testADaysRequestsAreKeptInMind(t *testing.T, e *Edge) {
	left := func(want string) {
		t.Helper()
		got := e.Do("tok-alpha", "GET", "/version", "")
		if field := got.Header.Get("RateLimit"); got.Status != 200 || !strings.HasPrefix(field, want+";t=") {
			t.Errorf("%d, RateLimit: %s, want %s", got.Status, field, want)
		}
	}
	e.SetLimits(map[string]int{"requests_per_day": 6})
	left(`"requests_per_day";r=5`)
	left(`"requests_per_day";r=4`)
	e.SetLimits(map[string]int{"requests_per_day": 5})
	left(`"requests_per_day";r=2`)
	e.Reload("# max_in_flight 64", "max_in_flight 1000")
	left(`"requests_per_day";r=1`)
	e.Quit()
	e.Boot()
	left(`"requests_per_day";r=0`)
	for range 3 {
		got := e.Do("tok-alpha", "POST", "/insert?c="+origin, "refused")
		wantLimit(t, got, "requests_per_day")
		if seconds, _ := strconv.Atoi(got.Header.Get("Retry-After")); seconds < 1 || seconds > 86400 {
			t.Errorf("Retry-After %d", seconds)
		}
	}
	if stats := e.Stats("alpha"); stats.Today != 5 {
		t.Errorf("%d calls today, want those that passed: 5", stats.Today)
	}
	if n := e.Metric(`sq_limited_total{limit="requests_per_day"}`); n != 3 {
		t.Errorf("sq_limited_total is %v, want 3", n)
	}
	if n := e.Metric(`sq_api_calls_total{code="429",method="limited",tenant="alpha"}`); n != 3 {
		t.Errorf("sq_api_calls_total is %v, want 3", n)
	}
	if n := strings.Count(e.Log(), `"a tenant is at its limit`); n != 1 {
		t.Errorf("the log holds %d lines of three refusals, want 1", n)
	}
	e.Want("tok-beta", "GET", "/select?c="+origin, "", 200, "")

	// A tenant that is gone takes its count along.
	e.setTenants(e.Tenant("beta"))
	Eventually(t, "alpha is forgotten", func() error {
		if body := e.Do(adminKey, "GET", "/api/v2/metrics", "").Body; strings.Contains(body, `tenant="alpha"`) {
			return errors.New("it has series")
		}
		return nil
	})
	e.SetLimits(map[string]int{"requests_per_day": 5})
	left(`"requests_per_day";r=4`)
}

// testRate sends until it is refused: on a slow machine a token may have come
// between two requests.
func testRate(t *testing.T, e *Edge) {
	e.SetLimits(map[string]int{"requests_per_second": 1, "burst": 3})
	Eventually(t, "a request is refused", func() error {
		got := e.Do("tok-alpha", "GET", "/version", "")
		if policy := got.Header.Get("RateLimit-Policy"); policy != `"requests_per_second";q=3;w=3` {
			t.Fatalf("RateLimit-Policy: %s", policy)
		}
		if got.Status == 200 {
			return errors.New("it was not")
		}
		wantLimit(t, got, "requests_per_second")
		if after := got.Header.Get("Retry-After"); after != "1" {
			t.Errorf("Retry-After %s", after)
		}
		return nil
	})
	// Each in its usual form.
	Eventually(t, "a delta is refused", func() error {
		got := e.Do("tok-alpha", "POST", "/delta", "")
		if got.Status == 200 {
			return errors.New("it was not")
		}
		if got.Status != 429 || got.Body != "" || !strings.HasPrefix(got.Header.Get("SQ-Error"), "requests_per_second: ") {
			t.Errorf("%d %q, SQ-Error %q", got.Status, got.Body, got.Header.Get("SQ-Error"))
		}
		return nil
	})
}

func testEveryAnswerTellsTheLimits(t *testing.T, e *Edge) {
	e.SetLimits(map[string]int{"requests_per_second": 1000, "concurrent_requests": 50, "max_scroll_bytes": 100})
	Eventually(t, "the bucket fills", func() error {
		if field := e.Do("tok-alpha", "GET", "/version", "").Header.Get("RateLimit"); !strings.Contains(field, ";r=998;") && !strings.Contains(field, ";r=999;") {
			return errors.New(field) // one request takes what a millisecond gives
		}
		return nil
	})
	for _, tt := range []struct {
		key, method, path, body string
		status                  int
		limited                 bool
	}{
		{"tok-alpha", "GET", "/select?c=" + origin, "", 200, true},
		{"tok-alpha", "HEAD", "/select?c=" + origin, "", 200, true},
		{"tok-alpha", "GET", "/select?c=0", "", 400, true},
		{"tok-alpha", "GET", "/nowhere", "", 404, true},
		{"tok-alpha", "PATCH", "/select", "", 405, true},
		{"tok-alpha", "POST", "/insert?c=" + origin, strings.Repeat("x", 101), 413, true},
		{"tok-alpha", "GET", "/documents/none", "", 404, true},
		{"tok-alpha", "POST", "/delta", "nonsense", 400, true},
		{"tok-beta", "GET", "/select?c=" + origin, "", 200, false},
		{"tok-nobody", "GET", "/select?c=" + origin, "", 401, false},
		{"", "OPTIONS", "/select", "", 204, false},
		{adminKey, "GET", "/api/v2/admin/tenants", "", 200, false},
	} {
		got := e.Do(tt.key, tt.method, tt.path, tt.body)
		policy, field := got.Header.Get("RateLimit-Policy"), got.Header.Get("RateLimit")
		if got.Status != tt.status {
			t.Errorf("%s %s: %d %q, want %d", tt.method, tt.path, got.Status, clip(got.Body), tt.status)
		}
		wantPolicy, wantField := "", "^$"
		if tt.limited {
			wantPolicy = `"requests_per_second";q=1000;w=1, "concurrent_requests";q=50;qu="concurrent-requests"`
			wantField = `^"requests_per_second";r=9\d\d;t=1, "concurrent_requests";r=49$`
		}
		if policy != wantPolicy || !regexp.MustCompile(wantField).MatchString(field) {
			t.Errorf("%s %s: RateLimit-Policy: %s\nRateLimit: %s", tt.method, tt.path, policy, field)
		}
	}
}

// testConcurrentRequests: at the limit, and that whoever has all of an answer is
// no more counted, in each HTTP version.
func testConcurrentRequests(t *testing.T, e *Edge) {
	e.SetLimits(map[string]int{"concurrent_requests": 2})
	upload := e.Upload(e.Tenant("alpha"), "slow", "begin")
	got := e.Do("tok-alpha", "GET", "/version", "")
	if field := got.Header.Get("RateLimit"); got.Status != 200 || field != `"concurrent_requests";r=0` {
		t.Errorf("%d, RateLimit: %s", got.Status, field)
	}
	second := e.Upload(e.Tenant("alpha"), "slow2", "begin")
	wantLimit(t, e.Do("tok-alpha", "GET", "/version", ""), "concurrent_requests")
	e.Want("tok-beta", "GET", "/select?c="+origin, "", 200, "")
	second.Finish(t, "")
	upload.Finish(t, "")

	e.SetLimits(map[string]int{"concurrent_requests": 1})
	e.Want("tok-alpha", "PUT", "/documents/d", strings.Repeat("x", 100_000), 200, "Replaced d.phext: 100000 bytes")
	for i := range 300 {
		path := []string{"/get?p=d", "/select?c=" + origin, "/nowhere"}[i%3]
		if got := e.Do("tok-alpha", "GET", path, ""); got.Status == 429 {
			t.Fatalf("request %d: %q though the one before has been answered", i, got.Body)
		}
		if i%10 == 0 {
			e.client.CloseIdleConnections() // the next goes over another connection
		}
	}
}

func testOpenStreams(t *testing.T, e *Edge) {
	e.SetLimits(map[string]int{"open_streams": 1})
	e.putLarge()
	big := strings.Repeat("y", 2<<20)
	e.Want("tok-alpha", "POST", "/update?p=big&c="+origin, big, 200, fmt.Sprintf("Updated %d bytes", len(big)))
	resp := e.mustSend(e.client, "GET", "/get?p=large", nil)
	if field := resp.Header.Get("RateLimit"); resp.StatusCode != 200 || field != `"open_streams";r=0` {
		t.Errorf("%d, RateLimit: %s", resp.StatusCode, field)
	}
	for _, path := range []string{"/get?p=large", "/documents/large", "/toc?p=large", "/json-export?p=large", "/delta?p=large", "/select?p=big&c=" + origin} {
		got := e.Do("tok-alpha", "GET", path, "")
		if strings.HasPrefix(path, "/delta") {
			got.Body = got.Header.Get("SQ-Error")
		}
		wantLimit(t, got, "open_streams")
	}
	e.Want("tok-alpha", "GET", "/select?p=large&c=1.1.1/1.1.1/1.1.65535", "", 200, "")
	if got := e.Do("tok-alpha", "HEAD", "/get?p=large", ""); got.Status != 200 {
		t.Errorf("HEAD: %d", got.Status)
	}
	resp.Body.Close()
	Eventually(t, "the stream is over", func() error {
		if got := e.Do("tok-alpha", "GET", "/select?p=big&c="+origin, ""); got.Status != 200 || got.Body != big {
			return fmt.Errorf("%d, %d bytes", got.Status, len(got.Body))
		}
		return nil
	})
	// Whoever has all of it may ask for the next.
	for range 20 {
		if got := e.Do("tok-alpha", "GET", "/get?p=big", ""); got.Status != 200 {
			t.Fatalf("%d %q", got.Status, clip(got.Body))
		}
	}
}

func testSizes(t *testing.T, e *Edge) {
	e.SetLimits(map[string]int{"max_scroll_bytes": 10, "max_document_bytes": 20})
	e.Want("tok-alpha", "POST", "/update?p=s&c="+origin, "0123456789", 200, "Updated 10 bytes")
	e.Want("tok-alpha", "POST", "/update?p=s&c="+origin, "0123456789a", 413, "text is larger than 10 bytes")
	e.Want("tok-alpha", "PUT", "/documents/s", "0123456789a", 200, "Replaced s.phext: 11 bytes")
	e.Want("tok-alpha", "PUT", "/documents/s", strings.Repeat("x", 21), 413, "text is larger than 20 bytes")
	e.Want("tok-beta", "POST", "/update?p=s&c="+origin, "0123456789a", 200, "Updated 11 bytes")
	// A tenant may also be given more than the others.
	e.SetLimits(map[string]int{"max_scroll_bytes": 0})
	text := strings.Repeat("x", 16<<20+1)
	e.Want("tok-alpha", "POST", "/update?p=s&c="+origin, text, 200, fmt.Sprintf("Updated %d bytes", len(text)))
	e.Want("tok-beta", "POST", "/update?p=s&c="+origin, text, 413, "text is larger than 16777216 bytes")
}

// testWorkersMemory: a changed bound replaces the worker, unseen.
func testWorkersMemory(t *testing.T, e *Edge) {
	pid, data := 0, 0
	memory := func(more int) { // MiB than before
		t.Helper()
		e.Want("tok-alpha", "GET", "/select?p=none&c="+origin, "", 200, "")
		was, had := pid, data
		pid = e.Worker("alpha")
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		must(t, err)
		data = 0 // where the worker was built with the race detector, it has no such bound
		if found := regexp.MustCompile(`Max data size +(\d+) `).FindSubmatch(limits); found != nil {
			data, err = strconv.Atoi(string(found[1]))
			must(t, err)
		}
		if was != 0 && (pid == was || data != 0 && data-had != 2*more<<20) {
			t.Errorf("process %d may have %d bytes, and process %d had %d: want twice %d MiB more", pid, data, was, had, more)
		}
	}
	memory(0)
	e.SetLimits(map[string]int{"memory_mb": 32, "cpu_weight": 50})
	memory(-32)
	e.SetLimits(nil)
	memory(32)
}

func testDefaultLimits(t *testing.T, e *Edge) {
	policy := func(key string) string {
		t.Helper()
		return e.Do(key, "GET", "/version", "").Header.Get("RateLimit-Policy")
	}
	e.SetLimits(map[string]int{"concurrent_requests": 0, "open_streams": 3})
	if got := policy("tok-beta"); got != "" {
		t.Errorf("without defaults beta is told %s", got)
	}
	e.Reload("max_in_flight 1000", "limits {\nconcurrent_requests 7\nopen_streams 9\n}")
	for key, want := range map[string]string{
		"tok-alpha": `"open_streams";q=3;qu="concurrent-requests"`,
		"tok-beta":  `"concurrent_requests";q=7;qu="concurrent-requests", "open_streams";q=9;qu="concurrent-requests"`,
	} {
		if got := policy(key); got != want {
			t.Errorf("%s is told %s, want %s", key, got, want)
		}
	}
	// A fault in the file leaves the limits that are in force.
	pid := e.Worker("beta")
	alpha := e.Tenant("alpha")
	alpha.Limits = map[string]int{"rps": 5}
	e.WriteTenants(alpha)
	Eventually(t, "the fault is seen", func() error {
		if e.Metric("sq_config_reload_failures_total") == 0 {
			return errors.New("it is not")
		}
		return nil
	})
	if got := policy("tok-alpha"); got != `"open_streams";q=3;qu="concurrent-requests"` {
		t.Errorf("under a bad file alpha is told %s", got)
	}
	if e.Worker("beta") != pid {
		t.Error("limits that the edge itself enforces restarted a worker")
	}
}

// TestABusyTenantLeavesTheOthersTheirShare stops a tenant's worker, so that all
// that is sent to it waits.
func TestABusyTenantLeavesTheOthersTheirShare(t *testing.T) {
	t.Parallel()
	const (
		read = 16 // what one costs
		most = 8  // reads
	)
	e := Prepare(t, Setup{Plain: true, Tenants: []Tenant{{ID: "alpha"}, {ID: "beta"}, {ID: "gamma"}}})
	e.edit("# max_in_flight 64", fmt.Sprintf("max_in_flight %d", most*read))
	e.Boot()
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "")
	pid := e.Worker("alpha")
	stop(t, pid)
	// One request of another tenant waits, too: alpha is not alone.
	e.Want("tok-gamma", "GET", "/select?c="+origin, "", 200, "")
	gamma := e.Worker("gamma")
	stop(t, gamma)
	const requests = 30
	var refused, answered atomic.Int64
	var group sync.WaitGroup
	waiting := func() int64 {
		n := int64(-1)
		fmt.Sscanf(regexp.MustCompile(`(?m)^sq_waiting_cost (.*)$`).FindString(e.Do(adminKey, "GET", "/api/v2/metrics", "").Body), "sq_waiting_cost %d", &n)
		return n / read
	}
	group.Go(func() {
		if got, err := e.Try("tok-gamma", "GET", "/select?c="+origin, ""); err != nil || got.Status != 200 {
			t.Errorf("gamma: %d %v", got.Status, err)
		}
	})
	Eventually(t, "gamma waits", func() error {
		if n := waiting(); n != 1 {
			return fmt.Errorf("%v do", n)
		}
		return nil
	})
	for range requests {
		group.Go(func() {
			got, err := e.Try("tok-alpha", "GET", "/select?c="+origin, "")
			switch {
			case err != nil:
				t.Error(err)
			case got.Status == 200:
				answered.Add(1)
			case got.Status == 503 && got.Header.Get("Retry-After") == "1" && strings.HasPrefix(got.Body, "max_in_flight: "):
				refused.Add(1)
			default:
				t.Errorf("%d %q", got.Status, got.Body)
			}
		})
	}
	Eventually(t, "the excess is refused", func() error {
		// What fits is let in, and one more if gamma has not been active of late.
		if n, left := refused.Load(), waiting(); n < requests-most || left != requests+1-n {
			return fmt.Errorf("%d are refused and %d wait", n, left)
		}
		return nil
	})
	admitted := requests - refused.Load()
	if admitted < most-1 || admitted > most {
		t.Errorf("%d are let in, want %d", admitted, most)
	}
	for range 20 {
		e.Want("tok-beta", "GET", "/select?c="+origin, "", 200, "")
	}
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	must(t, syscall.Kill(gamma, syscall.SIGCONT))
	group.Wait()
	if answered.Load() != admitted {
		t.Errorf("%d were answered, want %d", answered.Load(), admitted)
	}
	if n := e.Metric(`sq_limited_total{limit="max_in_flight"}`); n != float64(requests-admitted) {
		t.Errorf("sq_limited_total is %v", n)
	}
	if n := strings.Count(e.Log(), `"limit":"max_in_flight"`); n != 1 {
		t.Errorf("the log holds %d lines", n)
	}
	// An upload whose client is slow, and an answer that has begun, keep nobody
	// from anything.
	var uploads []*Upload
	for i := range most + 1 {
		uploads = append(uploads, e.Upload(e.Tenant("alpha"), fmt.Sprint("slow", i), "begin"))
	}
	if n := e.Metric("sq_waiting_cost"); n != 0 {
		t.Errorf("sq_waiting_cost is %v while clients are slow", n)
	}
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "")
	for _, u := range uploads {
		u.Finish(t, "")
	}
}
