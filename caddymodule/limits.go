package caddymodule

import (
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

// The header fields of draft-ietf-httpapi-ratelimit-headers-11, as net/http
// spells them.
const (
	headerPolicy    = "Ratelimit-Policy"
	headerRateLimit = "Ratelimit"
)

// largeAnswer is the size in bytes from which any answer is a stream.
const largeAnswer = 1 << 20

// isStream says whether an answer may be a whole document, whatever its size.
func isStream(op wire.Op) bool {
	switch op {
	case wire.Get, wire.Download, wire.TOC, wire.JSONExport, wire.Delta:
		return true
	}
	return false
}

// limitKind is a limit that the edge enforces by counting.
type limitKind uint8

const (
	perSecond limitKind = iota
	perDay
	concurrent
	streams
	inFlight // of all tenants: see shedder
	limitKinds
)

// limitNames are the kinds' names in tenants.json, headers, texts and metrics.
var limitNames = [limitKinds]string{"requests_per_second", "requests_per_day", "concurrent_requests", "open_streams", "max_in_flight"}

// meter is what a tenant has used of its limits. It is part of the tenant's
// usage: no reload of any kind resets it.
type meter struct {
	applied atomic.Pointer[applied]
	running atomic.Int64 // requests being answered
	streams atomic.Int64 // of those, streams
	logged  [limitKinds]atomic.Int64
}

// applied are limits in force and what follows from them.
type applied struct {
	limits  tenants.Limits
	limiter *rate.Limiter // nil as long as there was no rate
	policy  []string      // the RateLimit-Policy field, or nil
}

// apply puts limits in force, which almost always are already. Tokens that were
// used stay used.
func (m *meter) apply(now time.Time, limits *tenants.Limits) *applied {
	was := m.applied.Load()
	if was != nil && was.limits == *limits {
		return was
	}
	is := &applied{limits: *limits, policy: policyField(limits)}
	if was != nil {
		is.limiter = was.limiter
	}
	if limits.RequestsPerSecond > 0 {
		if is.limiter == nil {
			is.limiter = rate.NewLimiter(rate.Limit(limits.RequestsPerSecond), int(limits.Burst))
		}
		is.limiter.SetLimitAt(now, rate.Limit(limits.RequestsPerSecond))
		is.limiter.SetBurstAt(now, int(limits.Burst))
	}
	if !m.applied.CompareAndSwap(was, is) {
		return m.apply(now, limits) // of two first requests, both must use one limiter
	}
	return is
}

// policyField says what is enforced: q requests in any w seconds are never
// refused. For a bucket of tokens, w is the time that fills it.
func policyField(l *tenants.Limits) []string {
	var b []byte
	item := func(kind limitKind, quota, window int64) {
		if quota <= 0 {
			return
		}
		b = appendItem(b, kind)
		b = strconv.AppendInt(append(b, ";q="...), quota, 10)
		if window > 0 {
			b = strconv.AppendInt(append(b, ";w="...), window, 10)
		} else {
			b = append(b, `;qu="concurrent-requests"`...)
		}
	}
	if l.RequestsPerSecond > 0 {
		item(perSecond, l.Burst, (l.Burst+l.RequestsPerSecond-1)/l.RequestsPerSecond)
	}
	item(perDay, l.RequestsPerDay, secondsPerDay)
	item(concurrent, l.ConcurrentRequests, 0)
	item(streams, l.OpenStreams, 0)
	if b == nil {
		return nil
	}
	return []string{string(b)}
}

func appendItem(b []byte, kind limitKind) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(append(b, '"'), limitNames[kind]...)
	return append(b, '"')
}

// grant is a request's place within its tenant's limits.
type grant struct {
	usage   *usage
	applied *applied

	// What was left when the request was let in or refused, itself counted. A
	// client may begin so many more while this request runs.
	left   [inFlight]int64
	dayEnd int64 // seconds until the day's count begins anew

	running, streaming bool // what release gives back
}

// refusal is a limit that a request would pass.
type refusal struct {
	kind limitKind
	err  *wire.Error
}

func (r *refusal) Error() string { return r.err.Error() }

// admit lets a request in and counts it, or says which limit refuses it, which
// then costs nothing. In either case the grant knows what is left.
func (g *grant) admit(now time.Time) *refusal {
	l := &g.applied.limits
	var running int64
	if g.running, running = take(&g.usage.meter.running, l.ConcurrentRequests); !g.running {
		g.look(now, running)
		return refused(concurrent, 1, "%d requests of this tenant are being answered already", l.ConcurrentRequests)
	}
	// The day is looked at first: a token must not be spent on a request that
	// it refuses.
	secondOK, dayOK := true, l.RequestsPerDay == 0 || g.usage.today(now) < l.RequestsPerDay
	if dayOK && l.RequestsPerSecond > 0 {
		secondOK = g.applied.limiter.AllowN(now, 1)
	}
	if dayOK && secondOK {
		dayOK = g.usage.count(now, l.RequestsPerDay)
	}
	if dayOK && secondOK {
		g.look(now, running)
		return nil
	}
	g.release()
	g.look(now, running-1)
	if !dayOK {
		return refused(perDay, g.dayEnd, "the %d requests of this day (UTC) are used up", l.RequestsPerDay)
	}
	return refused(perSecond, secondsUntilToken, "more than %d requests a second, or %d at once", l.RequestsPerSecond, l.Burst)
}

// secondsUntilToken is how long an empty bucket takes for the next token: rates
// are whole numbers a second, so that it is there within the next.
const secondsUntilToken = 1

// look notes what is left while so many requests are running.
func (g *grant) look(now time.Time, running int64) {
	l := &g.applied.limits
	g.left[concurrent] = l.ConcurrentRequests - running
	g.left[streams] = l.OpenStreams - g.usage.meter.streams.Load()
	if l.RequestsPerDay > 0 {
		g.dayEnd = secondsPerDay - now.Unix()%secondsPerDay
		g.left[perDay] = max(0, l.RequestsPerDay-g.usage.today(now))
	}
	if l.RequestsPerSecond > 0 {
		// The limiter gives a token a nanosecond before it is whole.
		almost := float64(l.RequestsPerSecond) / 1e9
		g.left[perSecond] = max(0, int64(g.applied.limiter.TokensAt(now)+almost))
	}
}

// stream takes one of the tenant's streams for the answer.
func (g *grant) stream() *refusal {
	if g.streaming {
		return nil
	}
	limit := g.applied.limits.OpenStreams
	var open int64
	if g.streaming, open = take(&g.usage.meter.streams, limit); !g.streaming {
		g.left[streams] = 0
		return refused(streams, 1, "%d documents or other long answers are being sent to this tenant already", limit)
	}
	g.left[streams] = limit - open
	return nil
}

// release gives back what the request holds. It may be called more than once.
func (g *grant) release() {
	if g.running {
		g.running = false
		g.usage.meter.running.Add(-1)
	}
	if g.streaming {
		g.streaming = false
		g.usage.meter.streams.Add(-1)
	}
}

// take adds 1 to n unless it is at limit, of which 0 is none, and returns n. It
// never overshoots, not even for a moment in which another could be refused.
func take(n *atomic.Int64, limit int64) (bool, int64) {
	for {
		was := n.Load()
		if limit > 0 && was >= limit {
			return false, was
		}
		if n.CompareAndSwap(was, was+1) {
			return true, was + 1
		}
	}
}

func refused(kind limitKind, seconds int64, format string, args ...any) *refusal {
	werr := wire.Errorf(http.StatusTooManyRequests, "%s: %s; try again in %d s", limitNames[kind], fmt.Sprintf(format, args...), seconds)
	werr.RetryAfter = int(seconds)
	return &refusal{kind, werr}
}

// setHeaders tells the client its limits and what is left of them.
func (g *grant) setHeaders(h http.Header) {
	if g.applied.policy == nil {
		return
	}
	l := &g.applied.limits
	b := make([]byte, 0, 160)
	item := func(kind limitKind, limit, seconds int64) {
		if limit == 0 {
			return
		}
		b = appendItem(b, kind)
		b = strconv.AppendInt(append(b, ";r="...), max(0, g.left[kind]), 10)
		if seconds > 0 {
			b = strconv.AppendInt(append(b, ";t="...), seconds, 10)
		}
	}
	item(perSecond, l.RequestsPerSecond, secondsUntilToken)
	item(perDay, l.RequestsPerDay, g.dayEnd)
	item(concurrent, l.ConcurrentRequests, 0)
	item(streams, l.OpenStreams, 0)
	h[headerPolicy] = g.applied.policy
	h[headerRateLimit] = []string{string(b)}
}

// workerSpec names a tenant's worker as it must be now: one that runs with other
// limits is replaced.
func workerSpec(t *tenants.Tenant) supervisor.Spec {
	spec := supervisor.Spec{Tenant: t.ID, DataDir: t.DataDir, MemoryMB: int(t.Limits.MemoryMB), CPUWeight: int(max(0, t.Limits.CPUWeight))}
	if t.Limits.MemoryMB == tenants.Unlimited {
		spec.MemoryMB = wire.MaxMemory
	}
	return spec
}

// limited counts a refusal, and logs the first of each minute.
func (rt *runtime) limited(u *usage, tenant string, kind limitKind, now time.Time) {
	rt.metrics.limited.WithLabelValues(limitNames[kind]).Inc()
	if firstOfMinute(&u.meter.logged[kind], now) {
		rt.logger.Warn("a tenant is at its limit; more refusals within a minute are not logged",
			zap.String("tenant", tenant), zap.String("limit", limitNames[kind]))
	}
}

// firstOfMinute reports whether a minute has passed since it last did.
func firstOfMinute(last *atomic.Int64, now time.Time) bool {
	was := last.Load()
	return (was == 0 || now.UnixNano()-was >= int64(time.Minute)) && last.CompareAndSwap(was, now.UnixNano())
}
