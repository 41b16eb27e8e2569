package caddymodule

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
)

// Without the right to look, a tenant that sleeps stores what its worker said.
func TestStorageOutOfReachIsWhatItWas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "acme")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.phext"), []byte(strings.Repeat("x", 7)), 0o600); err != nil {
		t.Fatal(err)
	}
	book := storageBook{known: make(map[string]stored)}
	book.set("acme", 1000, time.Now().Add(-time.Minute))
	measure := func() int64 {
		states := map[string]supervisor.Status{"acme": {State: supervisor.Asleep, Since: time.Now()}}
		book.measure([]*tenants.Tenant{{ID: "acme", DataDir: dir}}, func(string) bool { return true }, states, func(time.Time) bool { return true })
		return book.known["acme"].bytes
	}

	if os.Geteuid() == 0 { // whom no mode keeps out
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		unix.SetfsuidRetUid(65534)
		defer unix.SetfsuidRetUid(0)
	} else if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	if got := measure(); got != 1000 {
		t.Errorf("out of reach it is %d bytes, want 1000", got)
	}
	if os.Geteuid() == 0 {
		unix.SetfsuidRetUid(0)
	} else if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := measure(); got != 7 {
		t.Errorf("in reach it is %d bytes, want 7", got)
	}
}
