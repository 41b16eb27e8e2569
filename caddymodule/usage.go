package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// usageEvery is how often the call counters are written down: what an edge that
// is killed may forget. They are for operators to look at, not to bill by.
const usageEvery = 10 * time.Second

// usageBook counts the calls of each tenant, across restarts of the edge.
type usageBook struct {
	tenants sync.Map // tenant id → *usage

	saving sync.Mutex
	path   string            // of the file that keeps the counters
	saved  [sha256.Size]byte // of what save wrote to it last
}

// usage is what the edge knows of one tenant's calls. No lock in it is another
// tenant's.
type usage struct {
	meter    meter
	turns    turns
	calls    calls
	inflight atomic.Int64
	total    atomic.Uint64
	last     atomic.Int64  // Unix time in nanoseconds of the last call, 0 for none
	day      atomic.Uint64 // the UTC day since 1970 in the upper 24 bits, its calls in the lower 40
}

// usageRecord is one tenant's line in the file and in the admin API.
type usageRecord struct {
	Today      uint64     `json:"api_calls_today"` // in the UTC day of LastActive; without what a limit refused
	Total      uint64     `json:"api_calls_total"`
	LastActive *time.Time `json:"last_active"` // UTC; null where there was no call yet
}

const (
	dayCalls      = 1<<40 - 1
	secondsPerDay = 24 * 60 * 60
)

// open reads the counters that an earlier edge wrote down in the data root.
func (b *usageBook) open(root string) error {
	b.moveTo(root)
	return b.load()
}

// moveTo has the counters written down in another data root from now on.
func (b *usageBook) moveTo(root string) {
	b.saving.Lock()
	defer b.saving.Unlock()
	if path := filepath.Join(root, ".usage.json"); path != b.path {
		b.path, b.saved = path, [sha256.Size]byte{}
	}
}

func (b *usageBook) of(tenant string) *usage {
	if u, ok := b.tenants.Load(tenant); ok {
		return u.(*usage)
	}
	u, _ := b.tenants.LoadOrStore(tenant, new(usage))
	return u.(*usage)
}

// active reports whether a tenant was active since then.
func (b *usageBook) active(tenant string, since time.Time) bool {
	u, ok := b.tenants.Load(tenant)
	return ok && u.(*usage).last.Load() >= since.UnixNano()
}

// forget drops what is known of a tenant that is gone, its counters with it.
func (b *usageBook) forget(tenant string) { b.tenants.Delete(tenant) }

func (u *usage) enter() { u.inflight.Add(1) }
func (u *usage) leave() { u.inflight.Add(-1) }

// count counts a call, unless the day has seen most already, of which 0 is no
// limit.
func (u *usage) count(now time.Time, most int64) bool {
	today := uint64(now.Unix()/secondsPerDay) << 40
	for {
		was := u.day.Load()
		is := today + 1
		if was&^dayCalls == today {
			is = was + 1
		}
		if most > 0 && int64(is&dayCalls) > most {
			return false
		}
		if u.day.CompareAndSwap(was, is) {
			break
		}
	}
	u.total.Add(1)
	u.last.Store(now.UnixNano())
	return true
}

// today returns how many calls the day of now has seen.
func (u *usage) today(now time.Time) int64 {
	if day := u.day.Load(); day>>40 == uint64(now.Unix()/secondsPerDay) {
		return int64(day & dayCalls)
	}
	return 0
}

func (u *usage) record(now time.Time) usageRecord {
	rec := usageRecord{Total: u.total.Load(), Today: uint64(u.today(now))}
	if last := u.last.Load(); last != 0 {
		t := time.Unix(0, last).UTC()
		rec.LastActive = &t
	}
	return rec
}

func (b *usageBook) load() error {
	data, err := os.ReadFile(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var records map[string]usageRecord
	if err := json.Unmarshal(data, &records); err != nil {
		return fmt.Errorf("%s: %w", b.path, err)
	}
	for tenant, rec := range records {
		u := b.of(tenant)
		u.total.Add(rec.Total)
		if rec.LastActive != nil {
			u.last.Store(rec.LastActive.UnixNano())
			u.day.Store(uint64(rec.LastActive.Unix()/secondsPerDay)<<40 + rec.Today&dayCalls)
		}
	}
	return nil
}

// save writes the counters down where they changed, whole or not at all.
func (b *usageBook) save() error {
	b.saving.Lock()
	defer b.saving.Unlock()
	records := make(map[string]usageRecord)
	b.tenants.Range(func(tenant, u any) bool {
		u2 := u.(*usage)
		rec := u2.record(time.Unix(0, u2.last.Load())) // today as of the last call
		if rec.Total > 0 {
			records[tenant.(string)] = rec
		}
		return true
	})
	data, err := json.MarshalIndent(records, "", "  ")
	sum := sha256.Sum256(data)
	if err != nil || sum == b.saved {
		return err
	}
	// The data root is there once a tenant has been added.
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return fmt.Errorf("writing the call counters: %w", err)
	}
	temp := b.path + ".tmp"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("writing the call counters: %w", err)
	}
	if err := os.Rename(temp, b.path); err != nil {
		return fmt.Errorf("writing the call counters: %w", err)
	}
	b.saved = sum
	return nil
}

// run saves the counters now and then until ctx ends.
func (b *usageBook) run(ctx context.Context, logger *zap.Logger) {
	tick := time.NewTicker(usageEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := b.save(); err != nil {
				logger.Error("the call counters are not written down", zap.Error(err))
			}
		}
	}
}
