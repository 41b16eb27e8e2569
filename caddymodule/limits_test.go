package caddymodule

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/tenants"
)

// limitedTenant is a tenant under limits, whose requests come when a test says.
type limitedTenant struct {
	t      *testing.T
	usage  *usage
	limits tenants.Limits
	now    time.Time
}

func newLimited(t *testing.T, limits tenants.Limits) *limitedTenant {
	return &limitedTenant{t, new(usage), limits.Or(tenants.Limits{}), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

// told is what the client of a request learns.
type told struct {
	refused    string // the limit, or ""
	retryAfter int
	left       map[string]int64 // r of the RateLimit field
	window     map[string]int64 // t of it, where there is one
	grant      *grant
}

// begin sends a request, which runs on until its grant is released.
func (l *limitedTenant) begin() told {
	l.t.Helper()
	g := &grant{usage: l.usage, applied: l.usage.meter.apply(l.now, &l.limits)}
	a := told{grant: g, left: map[string]int64{}, window: map[string]int64{}}
	if refusal := g.admit(l.now); refusal != nil {
		a.refused, a.retryAfter = limitNames[refusal.kind], refusal.err.RetryAfter
		if want := fmt.Sprintf("try again in %d s", a.retryAfter); refusal.err.Status != 429 || !regexp.MustCompile("^"+a.refused+": .*"+want+"$").MatchString(refusal.err.Message) {
			l.t.Fatalf("a refusal by %s says %d %q", a.refused, refusal.err.Status, refusal.err.Message)
		}
	}
	h := http.Header{}
	g.setHeaders(h)
	for _, item := range rateLimitItem.FindAllStringSubmatch(h.Get("RateLimit"), -1) {
		a.left[item[1]], _ = strconv.ParseInt(item[2], 10, 64)
		if item[3] != "" {
			a.window[item[1]], _ = strconv.ParseInt(item[3], 10, 64)
		}
	}
	return a
}

var rateLimitItem = regexp.MustCompile(`"([a-z_]+)";r=(\d+)(?:;t=(\d+))?`)

// send sends a request that is answered at once.
func (l *limitedTenant) send() told {
	l.t.Helper()
	a := l.begin()
	a.grant.release()
	return a
}

// least returns the least that any of the time limits leaves.
func (a told) least() int64 {
	least := int64(1 << 40)
	for _, name := range []string{"requests_per_second", "requests_per_day"} {
		if left, ok := a.left[name]; ok {
			least = min(least, left)
		}
	}
	return least
}

// TestHeadersAgreeWithWhatIsEnforced holds, for limits and moments at random,
// that after any answer exactly as many requests pass as its RateLimit field
// says, and the next does not; and that a request passes after Retry-After
// seconds and none does one second earlier.
func TestHeadersAgreeWithWhatIsEnforced(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	for range 500 {
		var limits tenants.Limits
		for limits == (tenants.Limits{}) {
			if random.IntN(3) > 0 {
				limits.RequestsPerSecond = []int64{1, 2, 3, 7, 10, 50, 333}[random.IntN(7)]
				limits.Burst = random.Int64N(30) // 0 is one second's worth
			}
			if random.IntN(2) > 0 {
				limits.RequestsPerDay = 1 + random.Int64N(60)
			}
		}
		l := newLimited(t, limits)
		// The day's end is met by some.
		l.now = l.now.Add(time.Duration(random.Int64N(int64(12*time.Hour+time.Second)) + int64(time.Millisecond)))
		for step := range 10 {
			l.now = l.now.Add(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
			first := l.send()
			for range first.least() {
				if a := l.send(); a.refused != "" {
					t.Fatalf("seed %d, %+v, step %d: a request that the headers allow is refused by %s; they said %v", seed, limits, step, a.refused, first.left)
				}
			}
			over := l.send()
			if over.refused == "" {
				t.Fatalf("seed %d, %+v, step %d: a request more than the headers allow passes; they said %v", seed, limits, step, first.left)
			}
			if over.left[over.refused] != 0 || over.window[over.refused] != int64(over.retryAfter) {
				t.Fatalf("seed %d: refused by %s for %d s, the headers say r=%d, t=%d", seed, over.refused, over.retryAfter, over.left[over.refused], over.window[over.refused])
			}
			before, refusedAt := *l, l.now
			if over.retryAfter > 1 {
				before.now = refusedAt.Add(time.Duration(over.retryAfter-1) * time.Second)
				if a := before.send(); a.refused == "" {
					t.Fatalf("seed %d, %+v: a request passes %d s after a refusal that said %d", seed, limits, over.retryAfter-1, over.retryAfter)
				}
			}
			if random.IntN(4) == 0 {
				l.now = refusedAt.Add(time.Duration(over.retryAfter) * time.Second)
				if a := l.send(); a.refused != "" {
					t.Fatalf("seed %d, %+v: refused by %s after the %d s that a refusal by %s said", seed, limits, a.refused, over.retryAfter, over.refused)
				}
			}
		}
	}
}

// TestRetryAfterIsExact looks at the last moment at which no request passes.
func TestRetryAfterIsExact(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits tenants.Limits
		want   int
	}{
		{"requests_per_second", tenants.Limits{RequestsPerSecond: 1}, 1},
		{"requests_per_day", tenants.Limits{RequestsPerDay: 1}, 12 * 60 * 60},
		{"requests_per_day", tenants.Limits{RequestsPerDay: 1, RequestsPerSecond: 1}, 12 * 60 * 60},
	} {
		l := newLimited(t, test.limits)
		l.send()
		a := l.send()
		if a.refused != test.name || a.retryAfter != test.want {
			t.Errorf("refused by %q for %d s, want %s for %d", a.refused, a.retryAfter, test.name, test.want)
		}
		again := l.now.Add(time.Duration(test.want) * time.Second)
		l.now = again.Add(-time.Microsecond)
		if a := l.send(); a.refused != test.name {
			t.Errorf("%s: not refused a microsecond early", test.name)
		}
		l.now = again
		if a := l.send(); a.refused != "" {
			t.Errorf("%s: refused by %s after Retry-After", test.name, a.refused)
		}
	}
}

// TestATokenThatIsAlmostWhole comes a third of a nanosecond early: the limiter
// gives it, so the headers must promise it.
func TestATokenThatIsAlmostWhole(t *testing.T) {
	l := newLimited(t, tenants.Limits{RequestsPerSecond: 3})
	for range 3 {
		l.send()
	}
	l.now = l.now.Add(time.Second / 3)
	g := &grant{usage: l.usage, applied: l.usage.meter.apply(l.now, &l.limits)}
	g.look(l.now, 0)
	if a := l.send(); int64(1) != g.left[perSecond] || a.refused != "" {
		t.Errorf("%d are left and a request is refused by %q", g.left[perSecond], a.refused)
	}
}

// TestPolicyIsKept: a client that sends q requests in every w seconds, all of
// them at once, is never refused.
func TestPolicyIsKept(t *testing.T) {
	for _, limits := range []tenants.Limits{{RequestsPerSecond: 5}, {RequestsPerSecond: 3, Burst: 10}, {RequestsPerSecond: 10, Burst: 3}} {
		l := newLimited(t, limits)
		policy := l.usage.meter.apply(l.now, &l.limits).policy[0]
		var q, w int64
		if n, err := fmt.Sscanf(policy, `"requests_per_second";q=%d;w=%d`, &q, &w); n != 2 {
			t.Fatalf("%q: %v", policy, err)
		}
		if q != l.limits.Burst {
			t.Errorf("%q, want q=%d", policy, l.limits.Burst)
		}
		for range 20 {
			for range q {
				if a := l.send(); a.refused != "" {
					t.Fatalf("%+v: refused by %s although %q is kept", limits, a.refused, policy)
				}
			}
			l.now = l.now.Add(time.Duration(w) * time.Second)
		}
	}
}

func TestHeaderFields(t *testing.T) {
	h := http.Header{}
	unlimited := newLimited(t, tenants.Limits{MemoryMB: 64})
	unlimited.send().grant.setHeaders(h)
	if len(h) != 0 {
		t.Errorf("a tenant without limits is told %v", h)
	}
	l := newLimited(t, tenants.Limits{RequestsPerSecond: 50, Burst: 120, RequestsPerDay: 1000, ConcurrentRequests: 16, OpenStreams: 4})
	l.send().grant.setHeaders(h)
	const policy = `"requests_per_second";q=120;w=3, "requests_per_day";q=1000;w=86400, "concurrent_requests";q=16;qu="concurrent-requests", "open_streams";q=4;qu="concurrent-requests"`
	if got := h.Get("RateLimit-Policy"); got != policy {
		t.Errorf("RateLimit-Policy: %s\nwant %s", got, policy)
	}
	const left = `"requests_per_second";r=119;t=1, "requests_per_day";r=999;t=43200, "concurrent_requests";r=15, "open_streams";r=4`
	if got := h.Get("RateLimit"); got != left {
		t.Errorf("RateLimit: %s\nwant %s", got, left)
	}
}

// TestConcurrentRequestsAgreeWithTheHeaders: while a request runs, as many more
// may begin as its answer says.
func TestConcurrentRequestsAgreeWithTheHeaders(t *testing.T) {
	l := newLimited(t, tenants.Limits{ConcurrentRequests: 5})
	first := l.begin()
	var running []told
	for range first.left["concurrent_requests"] {
		a := l.begin()
		if a.refused != "" {
			t.Fatalf("refused by %s, the first answer said %v", a.refused, first.left)
		}
		running = append(running, a)
	}
	for range 3 { // a refused one takes no place, not even for a moment
		if a := l.begin(); a.refused != "concurrent_requests" || a.left["concurrent_requests"] != 0 {
			t.Fatalf("one more: refused by %q, left %v", a.refused, a.left)
		}
	}
	running[0].grant.release()
	running[0].grant.release() // as the end of the handler does once more
	if a := l.begin(); a.refused != "" {
		t.Errorf("after one has ended: refused by %s", a.refused)
	}
	if a := l.begin(); a.refused == "" {
		t.Error("one that has ended gave back two places")
	}
}

func TestOpenStreams(t *testing.T) {
	l := newLimited(t, tenants.Limits{OpenStreams: 2})
	a, b, c := l.begin(), l.begin(), l.begin()
	for _, g := range []*grant{a.grant, a.grant, b.grant} { // taken once by one request, however often it asks
		if refusal := g.stream(); refusal != nil {
			t.Fatal(refusal.err)
		}
	}
	if refusal := c.grant.stream(); refusal == nil || refusal.kind != streams || refusal.err.RetryAfter != 1 {
		t.Fatalf("a third stream: %v", refusal)
	}
	a.grant.release()
	if refusal := c.grant.stream(); refusal != nil {
		t.Error(refusal.err)
	}
}

// TestRefusedRequestsCostNothing: neither of the day nor of the tokens.
func TestRefusedRequestsCostNothing(t *testing.T) {
	l := newLimited(t, tenants.Limits{RequestsPerSecond: 2, RequestsPerDay: 5, ConcurrentRequests: 2})
	for range 20 {
		l.send()
	}
	if n := l.usage.today(l.now); n != 2 {
		t.Errorf("%d requests count for the day, 2 passed", n)
	}
	l.now = l.now.Add(time.Second)
	one, two := l.begin(), l.begin()
	for range 20 {
		if a := l.send(); a.refused != "concurrent_requests" {
			t.Fatalf("refused by %q", a.refused)
		}
	}
	one.grant.release()
	two.grant.release()
	l.now = l.now.Add(time.Second)
	if a := l.send(); a.refused != "" || a.left["requests_per_day"] != 0 {
		t.Errorf("the fifth request of the day: refused by %q, left %v", a.refused, a.left)
	}
	for range 20 {
		if a := l.send(); a.refused != "requests_per_day" || a.left["requests_per_second"] != 1 {
			t.Fatalf("the sixth: refused by %q, left %v", a.refused, a.left)
		}
	}
}

// TestChangedLimitsKeepWhatWasUsed changes them as a reload does.
func TestChangedLimitsKeepWhatWasUsed(t *testing.T) {
	l := newLimited(t, tenants.Limits{RequestsPerSecond: 10, RequestsPerDay: 100, ConcurrentRequests: 10})
	running := l.begin()
	for range 9 {
		l.send()
	}
	change := func(limits tenants.Limits) told {
		l.limits = limits.Or(tenants.Limits{})
		return l.begin()
	}
	if a := change(tenants.Limits{RequestsPerSecond: 1000}); a.refused != "requests_per_second" {
		t.Errorf("a higher rate filled the empty bucket: refused by %q", a.refused)
	}
	if a := change(tenants.Limits{RequestsPerDay: 10}); a.refused != "requests_per_day" {
		t.Errorf("a lower limit forgot the day: refused by %q", a.refused)
	}
	if a := change(tenants.Limits{ConcurrentRequests: 1}); a.refused != "concurrent_requests" {
		t.Errorf("a lower limit forgot the requests that run: refused by %q", a.refused)
	}
	if a := change(tenants.Limits{}); a.refused != "" {
		t.Errorf("without limits: refused by %s", a.refused)
	}
	if a := change(tenants.Limits{RequestsPerSecond: 10}); a.refused != "requests_per_second" {
		t.Errorf("a rate that was away for a moment came back full: refused by %q", a.refused)
	}
	running.grant.release()
}

// TestLimitsHoldUnderConcurrency has many clients at one moment.
func TestLimitsHoldUnderConcurrency(t *testing.T) {
	for _, limits := range []tenants.Limits{{RequestsPerSecond: 100}, {RequestsPerDay: 100}, {RequestsPerSecond: 1000, RequestsPerDay: 100}} {
		l := newLimited(t, limits)
		var passed atomic.Int64
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range 100 {
					g := &grant{usage: l.usage, applied: l.usage.meter.apply(l.now, &l.limits)}
					if g.admit(l.now) == nil {
						passed.Add(1)
					}
					g.release()
				}
			})
		}
		group.Wait()
		if n := passed.Load(); n != 100 {
			t.Errorf("%+v let %d of 800 requests in, want 100", limits, n)
		}
		if n := l.usage.meter.running.Load(); n != 0 {
			t.Errorf("%d requests run for ever", n)
		}
	}
}

func TestFirstOfMinute(t *testing.T) {
	var last atomic.Int64
	now := time.Now()
	for i, test := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, false}, {59 * time.Second, false}, {60 * time.Second, true}, {119 * time.Second, false}, {121 * time.Second, true}} {
		if got := firstOfMinute(&last, now.Add(test.after)); got != test.want {
			t.Errorf("%d, after %v: %v", i, test.after, got)
		}
	}
}

// BenchmarkLimits is what the limits add to a request.
func BenchmarkLimits(b *testing.B) {
	for name, limits := range map[string]tenants.Limits{
		"none": {},
		"all":  {RequestsPerSecond: 1_000_000, RequestsPerDay: 1_000_000_000_000, ConcurrentRequests: 1000, OpenStreams: 10},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			tenant := tenants.Tenant{Limits: limits}
			u, shedder := new(usage), new(shedder)
			h := http.Header{}
			for b.Loop() {
				now := time.Now()
				in := tenant.Limits.Or(tenants.Limits{})
				p := &place{grant: grant{usage: u, applied: u.meter.apply(now, &in)}, shedder: shedder, began: now, most: 100}
				p.admit(now)
				p.enter(b.Context(), readCost)
				p.setHeaders(h)
				p.release()
			}
		})
	}
}
