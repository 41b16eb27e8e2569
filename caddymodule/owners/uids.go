package owners

import (
	"fmt"
	"strconv"
	"strings"
)

// The uids that a worker may have: below are the machine's own accounts, and the
// kernel takes no more.
const (
	MinUID = 1000
	MaxUID = 1<<31 - 2
)

// overflow are uids that mean something else: nobody, and no id in 16 bits.
var overflow = []uint32{65534, 65535}

// Range is uids, both ends included. The zero Range is none.
type Range struct{ First, Last uint32 }

// ParseRange reads a range such as 200000-265535.
func ParseRange(s string) (r Range, err error) {
	first, last, ok := strings.Cut(s, "-")
	for _, end := range []struct {
		text string
		into *uint32
	}{{first, &r.First}, {last, &r.Last}} {
		n, err := strconv.ParseUint(end.text, 10, 32)
		if err != nil {
			ok = false
		}
		*end.into = uint32(n)
	}
	if !ok || r.First < MinUID || r.Last > MaxUID || r.First > r.Last {
		return Range{}, fmt.Errorf("%q is no range of uids from %d to %d: want one such as 200000-265535", s, MinUID, MaxUID)
	}
	for _, n := range overflow {
		if r.First <= n && n <= r.Last {
			return Range{}, fmt.Errorf("the uids %q include %d, which the system itself uses", s, n)
		}
	}
	return r, nil
}

func (r Range) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// UID returns the uid of the tenant's worker. One that has none in the range is
// given the next that no tenant has, going round so that one that was given back
// is not given away soon, and that is recorded when this returns.
func (b *Book) UID(tenant string, r Range) (uint32, error) {
	b.writing.Lock()
	defer b.writing.Unlock()
	e := b.lookup(tenant)
	if r.First <= e.UID && e.UID <= r.Last {
		return e.UID, nil
	}
	b.mu.RLock()
	next := b.last
	for range uint64(r.Last-r.First) + 1 {
		if next++; next < r.First || next > r.Last {
			next = r.First
		}
		if _, ok := b.taken[next]; !ok {
			e.UID = next
			break
		}
	}
	b.mu.RUnlock()
	if e.UID != next {
		return 0, fmt.Errorf("all uids %v are other tenants': give worker_uids more", r)
	}
	return e.UID, b.record(e)
}

// HasUID reports whether the tenant's worker has a uid of its own.
func (b *Book) HasUID(tenant string) bool { return b != nil && b.lookup(tenant).UID != 0 }

// DropUID has the tenant's worker run as the edge's user.
func (b *Book) DropUID(tenant string) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	e := b.lookup(tenant)
	e.UID = 0
	return b.record(e)
}
