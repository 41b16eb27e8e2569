package owners

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A line that the disk has no room for is not known, and what fits later is whole.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=4096"); err != nil {
		t.Skip("skipped: no tmpfs is to be had here: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "tenants.owners.jsonl")
	b := mustOpen(t, path, all)
	var err error
	n := 0
	for ; err == nil; n++ {
		err = b.SetID(fmt.Sprintf("t%d", n), id1)
	}
	if !errors.Is(err, unix.ENOSPC) || b.Fault() == nil || b.ID(fmt.Sprintf("t%d", n-1)) != "" {
		t.Fatalf("%v, fault %v", err, b.Fault())
	}
	if err := unix.Mount("none", dir, "", unix.MS_REMOUNT, "size=8192"); err != nil {
		t.Fatal(err)
	}
	mustSet(t, b, "later", id2)
	if b.Fault() != nil {
		t.Error(b.Fault())
	}
	if again := mustOpen(t, path, all); again.ID("later") != id2 || again.ID("t0") != id1 || len(again.known) != n {
		t.Errorf("%d are known, want %d", len(again.known), n)
	}
}

// What cannot be written can be read, and says so.
func TestReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Skip("skipped: no tmpfs is to be had here: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "tenants.owners.jsonl")
	for _, text := range []string{"", line("a", id1) + line("gone", id1)} {
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		b := mustOpen(t, path, func(tenant string) bool { return tenant != "gone" })
		if err := b.Fault(); !errors.Is(err, ErrReadOnly) || !errors.Is(err, unix.EROFS) {
			t.Errorf("fault %v", err)
		}
		if err := b.SetID("b", id2); !errors.Is(err, ErrReadOnly) || b.ID("b") != "" {
			t.Errorf("%v, and b has %q", err, b.ID("b"))
		}
		if text != "" && (b.ID("a") != id1 || b.ID("gone") != "") {
			t.Errorf("a has %q, gone %q", b.ID("a"), b.ID("gone"))
		}
		b.Close()
		if err := unix.Mount("none", dir, "", unix.MS_REMOUNT, ""); err != nil {
			t.Fatal(err)
		}
	}
}
