package caddymodule

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

// measureFor is how long a scrape may look at the data directories of tenants
// that sleep: enough for about a thousand of them. Where there are more, each
// scrape goes on where the one before ended.
const measureFor = 20 * time.Millisecond

// storageBook knows what each tenant stores: of one that is awake, what its worker
// said last; of one that sleeps, what lies on disk, since its worker wrote its
// checkpoints when it went to sleep. Its methods must not be called at the same
// time.
type storageBook struct {
	known map[string]stored // by tenant
	next  string            // the tenant from which to look again
}

// stored is how many bytes a tenant stored, and when.
type stored struct {
	bytes int64
	at    int64 // Unix time in nanoseconds
}

func (b *storageBook) set(tenant string, bytes int64, at time.Time) {
	b.known[tenant] = stored{bytes, at.UnixNano()}
}

// measure looks at directories as long as it may go on: first of tenants with
// series of their own that went to sleep since they were looked at, then of those
// that never were, then of all others that sleep, in turn. all is sorted by id.
func (b *storageBook) measure(all []*tenants.Tenant, active func(string) bool, states map[string]supervisor.Status, goOn func(now time.Time) bool) {
	var first, unknown, again []*tenants.Tenant
	for _, t := range all {
		state := states[t.ID] // of one never asked for, no state since the beginning of time
		asleep := state.State == "" || state.State == supervisor.Asleep
		was, ok := b.known[t.ID]
		switch {
		case active(t.ID) && (!ok || asleep && was.at <= state.Since.UnixNano()):
			first = append(first, t)
		case !ok:
			unknown = append(unknown, t)
		case asleep:
			again = append(again, t)
		}
	}
	i, _ := slices.BinarySearchFunc(again, b.next, func(t *tenants.Tenant, next string) int { return strings.Compare(t.ID, next) })
	for _, t := range slices.Concat(first, unknown, again[i:], again[:i]) {
		now := time.Now()
		if !goOn(now) {
			b.next = t.ID
			return
		}
		bytes, err := storageOnDisk(t.DataDir)
		if errors.Is(err, fs.ErrPermission) {
			// The directory of a worker with a user of its own, see worker_uids.
			bytes = b.known[t.ID].bytes
		}
		b.set(t.ID, bytes, now)
	}
}

// storageOnDisk adds up the documents in a data directory.
func storageOnDisk(dir string) (total int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasSuffix(name, wire.DocumentExt) || strings.HasPrefix(name, ".") {
			continue
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
	}
	return total, nil
}
