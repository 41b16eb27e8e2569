package supervisor

import (
	"math/rand/v2"
	"time"
)

const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 10 * time.Second

	// healthyAfter is how long a worker must have served for its death to
	// count as the first one.
	healthyAfter = 30 * time.Second
)

// backoff decides when a tenant's worker may be started again after it ended
// without being told to. Its methods are not for concurrent use.
type backoff struct {
	failures int
	until    time.Time
}

// failed notes a death at now after the worker served for ran; 0 means that it
// never did.
func (b *backoff) failed(now time.Time, ran time.Duration) {
	if ran >= healthyAfter {
		b.failures = 0
	}
	// Doubling stops long before the shift could overflow.
	delay := min(backoffMin<<min(b.failures, 10), backoffMax)
	b.failures++
	// Half of it is left to chance, so that tenants that fell together do not
	// start together.
	b.until = now.Add(delay/2 + rand.N(delay/2+1))
}

// ended notes an end that was asked for.
func (b *backoff) ended(ran time.Duration) {
	if ran >= healthyAfter {
		b.failures = 0
	}
}

// remaining returns how long no start may be tried, or 0.
func (b *backoff) remaining(now time.Time) time.Duration {
	return max(b.until.Sub(now), 0)
}
