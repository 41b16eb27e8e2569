package caddymodule

import (
	"hash/maphash"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

// A client's address may present failedBurst wrong keys at once, and one more
// each failedEvery.
const (
	failedBurst = 100
	failedEvery = 100 * time.Millisecond
)

// failures limits wrong keys by client address: an IPv4 address or an IPv6 /64,
// which is what one customer is given. The table has a fixed size. Addresses
// that meet in a slot share its budget, and which do is not to be guessed, so
// however many addresses an attacker has, all of them together get no more than
// failureSlots budgets. A right key never comes here, so nobody is locked out by
// a neighbour.
type failures struct {
	seed  maphash.Seed
	slots [failureSlots]atomic.Int64 // when the slot's budget is whole again, Unix time in ns

	logged atomic.Int64
}

const failureSlots = 1 << 13 // 64 KiB

// charge counts a wrong key. It returns 0, or how long the address must wait
// until it may present one more.
func (f *failures) charge(addr netip.Addr, now time.Time) time.Duration {
	slot := &f.slots[maphash.Comparable(f.seed, customer(addr))%failureSlots]
	for {
		whole := slot.Load()
		next := max(whole, now.UnixNano()) + int64(failedEvery)
		if over := time.Duration(next - now.UnixNano()); over > failedBurst*failedEvery {
			return over - failedBurst*failedEvery
		}
		if slot.CompareAndSwap(whole, next) {
			return 0
		}
	}
}

// customer returns the addresses that count as one; the zero prefix for what is
// no IP address, such as a unix socket.
func customer(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.WithZone("").Prefix(bits)
	return prefix
}

// refuseKey answers a request without a valid key with werr, or with 429 where
// its address has presented too many. Of the body nothing is read.
func (rt *runtime) refuseKey(w http.ResponseWriter, r *http.Request, werr *wire.Error) {
	rt.metrics.authFailures.Inc()
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		// Else net/http would read of the body before it answers.
		w.Header().Set("Connection", "close")
	}
	client, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr, _ := netip.ParseAddr(client)
	now := time.Now()
	if wait := rt.failures.charge(addr, now); wait > 0 {
		rt.metrics.limited.WithLabelValues("failed_keys").Inc()
		if firstOfMinute(&rt.failures.logged, now) {
			rt.logger.Warn("a client address has presented too many wrong keys; more refusals within a minute are not logged", zap.String("client_ip", client))
		}
		rt.shedder.hold(r.Context())
		seconds := int((wait + time.Second - 1) / time.Second)
		werr = wire.Errorf(http.StatusTooManyRequests, "failed_keys: too many wrong keys from this address; try again in %d s", seconds)
		werr.RetryAfter = seconds
	}
	refuse(w, r, werr)
}
