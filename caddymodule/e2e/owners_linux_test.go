package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Where the folder of tenants.json cannot be written, the edge says so once and
// serves, but not under sandbox strict.
func TestReadOnlyConfigFolder(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can mount")
	}
	e := Prepare(t, Setup{Plain: true})
	folder := filepath.Join(e.dir, "etc")
	must(t, os.Mkdir(folder, 0o700))
	if err := unix.Mount("none", folder, "tmpfs", 0, ""); err != nil {
		t.Skip("skipped: no tmpfs is to be had here: ", err)
	}
	t.Cleanup(func() { unix.Unmount(folder, unix.MNT_DETACH) })
	must(t, os.Rename(e.ConfigPath(), filepath.Join(e.dir, "tenants")))
	text, err := os.ReadFile(filepath.Join(e.dir, "tenants"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(folder, "tenants.json"), text, 0o600))
	must(t, unix.Mount("none", folder, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	e.env = append(e.env, "SQ_CONFIG="+filepath.Join(folder, "tenants.json"))
	e.Boot()
	for _, tenant := range []string{"alpha", "beta"} {
		e.Want("tok-"+tenant, "GET", "/toc?p=notes", "", 200, "")
	}
	const missing = "identity: ids of data directories are not kept"
	e.SaysMissing(missing)
}
