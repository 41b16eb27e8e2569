package caddymodule

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
)

// TestStorageOfSleepingTenants has a scrape look at two directories at a time, and
// wants each number when its turn comes.
func TestStorageOfSleepingTenants(t *testing.T) {
	root := t.TempDir()
	var all []*tenants.Tenant
	write := func(id string, bytes int) {
		dir := filepath.Join(root, id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"notes.phext", ".hidden.phext", "notes.txt"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat("x", bytes)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, id := range []string{"awake", "gone", "quiet1", "quiet2", "quiet3", "slept"} {
		if id != "gone" { // whose directory is not there
			write(id, 10+i)
		}
		all = append(all, &tenants.Tenant{ID: id, DataDir: filepath.Join(root, id)})
	}
	active := func(id string) bool { return id == "awake" || id == "slept" }
	now := time.Now()
	states := map[string]supervisor.Status{
		"awake": {State: supervisor.Ready, Since: now},
		"slept": {State: supervisor.Asleep, Since: now.Add(-time.Minute)},
	}
	book := storageBook{known: make(map[string]stored)}
	book.set("awake", 1000, now)
	book.set("slept", 2000, now.Add(-2*time.Minute)) // by its worker, before it wrote more

	scrape := func() map[string]int64 {
		left := 2
		book.measure(all, active, states, func(time.Time) bool { left--; return left >= 0 })
		got := make(map[string]int64)
		for id, s := range book.known {
			got[id] = s.bytes
		}
		return got
	}
	for i, want := range []map[string]int64{
		{"awake": 1000, "slept": 15, "gone": 0},
		{"awake": 1000, "slept": 15, "gone": 0, "quiet1": 12, "quiet2": 13},
		{"awake": 1000, "slept": 15, "gone": 0, "quiet1": 12, "quiet2": 13, "quiet3": 14},
	} {
		if got := scrape(); !maps.Equal(got, want) {
			t.Fatalf("after %d scrapes: %v, want %v", i+1, got, want)
		}
	}

	// What was changed by hand shows when its turn comes again; of the tenant that
	// is awake it is its worker's word that counts.
	for _, tenant := range all {
		write(tenant.ID, 100)
	}
	want := map[string]int64{"awake": 1000, "slept": 100, "gone": 100, "quiet1": 100, "quiet2": 100, "quiet3": 100}
	if got := func() map[string]int64 { scrape(); scrape(); return scrape() }(); !maps.Equal(got, want) {
		t.Errorf("after all had their turn again: %v, want %v", got, want)
	}

	// One that has been awake since comes before those whose turn it is.
	write("quiet3", 7)
	states["quiet3"] = supervisor.Status{State: supervisor.Asleep, Since: time.Now()}
	active = func(id string) bool { return id == "quiet3" }
	book.next = "gone"
	if got := scrape()["quiet3"]; got != 7 {
		t.Errorf("of a tenant that went to sleep again: %d, want 7", got)
	}
}
