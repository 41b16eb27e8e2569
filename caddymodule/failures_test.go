package caddymodule

import (
	"hash/maphash"
	"net/netip"
	"testing"
	"time"
)

func newFailures() *failures { return &failures{seed: maphash.MakeSeed()} }

func TestFailedKeysAreLimitedByAddress(t *testing.T) {
	f, now := newFailures(), time.Now()
	attacker, neighbour := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range failedBurst {
		if wait := f.charge(attacker, now); wait != 0 {
			t.Fatalf("wrong key %d must wait %v", i+1, wait)
		}
	}
	wait := f.charge(attacker, now)
	if wait != failedEvery {
		t.Fatalf("one more must wait %v, want %v", wait, failedEvery)
	}
	if f.charge(attacker, now.Add(wait-1)) == 0 {
		t.Error("it passes earlier than it was told")
	}
	if wait := f.charge(attacker, now.Add(wait)); wait != 0 {
		t.Errorf("after the wait it must wait %v", wait)
	}
	// Of 2^13 slots the two share one by chance, which the seed decides anew.
	for range 3 {
		if f.charge(neighbour, now) == 0 {
			return
		}
		f.seed = maphash.MakeSeed()
	}
	t.Error("another address has no budget of its own")
}

func TestCustomer(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"fe80::1%eth0", "fe80::2", true},
		{"::1", "127.0.0.1", false},
	} {
		if got := customer(netip.MustParseAddr(test.a)) == customer(netip.MustParseAddr(test.b)); got != test.same {
			t.Errorf("%s and %s count as one: %v, want %v", test.a, test.b, got, test.same)
		}
	}
	if customer(netip.Addr{}) != (netip.Prefix{}) {
		t.Error("what is no address has a prefix")
	}
}

// TestManyAddressesGetNoMoreThanTheTable: a million addresses with their burst
// each would be 100 million wrong keys.
func TestManyAddressesGetNoMoreThanTheTable(t *testing.T) {
	f, now := newFailures(), time.Now()
	passed := 0
	for i := range 1_000_000 {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		for range 2 {
			if f.charge(addr, now) == 0 {
				passed++
			}
		}
	}
	if passed > failureSlots*failedBurst {
		t.Errorf("%d wrong keys passed, the table holds %d", passed, failureSlots*failedBurst)
	}
	if passed < failureSlots*failedBurst*9/10 {
		t.Errorf("%d wrong keys passed, the table holds %d: the addresses meet in too few slots", passed, failureSlots*failedBurst)
	}
	if n := testing.AllocsPerRun(100, func() { f.charge(netip.MustParseAddr("2001:db8::1"), now) }); n != 0 {
		t.Errorf("a wrong key costs %v allocations", n)
	}
}
