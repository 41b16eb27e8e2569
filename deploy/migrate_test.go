package deploy_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/tenants"
)

// realFiles is a folder as a single-tenant server keeps it.
func realFiles(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{
		".phext":           "written without a document's name",
		"odyssey.phext":    mustRead(t, "../shared/phext/testdata/the-odyssey.phext"),
		"tagebuch ä.phext": "eins\x17zwei\x18drei\x01vier",
		"-n.phext":         "looks like an option",
		"empty.phext":      "",
	}
}

// migrated is what becomes of realFiles.
func migrated(t *testing.T) map[string]string {
	files := realFiles(t)
	files["default.phext"] = files[".phext"]
	delete(files, ".phext")
	return files
}

func TestMigrateDryRun(t *testing.T) {
	m := mustMigration(t, realFiles(t))
	mustMkdir(t, m.from+"/sub")
	mustWrite(t, m.from+"/sub/deep.phext", "not migrated")
	mustWrite(t, m.from+"/readme.txt", "not migrated")
	before := m.everything()
	r := m.mustRun("--quota-mb", "7")
	mustSameTree(t, before, m.everything())
	mustContain(t, r.stdout,
		"acme, quota 7 MiB, entry in "+m.config+"\n",
		"To        "+m.root+"/acme\n",
		"Files     5, 706445 bytes\n",
		"  .phext, 33 bytes, as default.phext\n",
		"  odyssey.phext, 706373 bytes\n",
		"  tagebuch ä.phext, 19 bytes\n",
		"Not migrated:\n  readme.txt\n  sub (folder)\n",
		"Dry run: nothing was changed.")
}

func TestMigrateApply(t *testing.T) {
	m := mustMigration(t, realFiles(t))
	mustMkdir(t, m.from+"/sub")
	written := time.Date(2011, 2, 3, 4, 5, 6, 7000, time.UTC)
	if err := os.Chtimes(m.from+"/odyssey.phext", written, written); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(m.from+"/odyssey.phext", 0o555); err != nil {
		t.Fatal(err)
	}
	source := m.tree(m.from)
	r := m.mustRun("--quota-mb", "7", "--apply")

	mustSameTree(t, source, m.tree(m.from))
	mustHold(t, m.root+"/acme", migrated(t))
	for path, about := range m.tree(m.root + "/acme") {
		want := "-rw------- "
		if path == m.root+"/acme" {
			want = "drwx------ "
		}
		if !strings.HasPrefix(about, want) {
			t.Errorf("%s is %s, want %s", path, about, want)
		}
	}
	info, err := os.Stat(m.root + "/acme/odyssey.phext")
	if err != nil {
		t.Fatal(err)
	}
	if !info.ModTime().Equal(written) {
		t.Errorf("the copy was modified at %v, the file at %v", info.ModTime(), written)
	}

	keys := keyPattern.FindAllString(r.stdout, -1)
	if len(keys) != 1 {
		t.Fatalf("%d keys were printed, want 1", len(keys))
	}
	tenant, _ := m.registry().ByKey(keys[0])
	if tenant == nil {
		t.Fatal("the printed key opens nothing")
	}
	want := tenants.Tenant{ID: "acme", DataDir: m.root + "/acme", QuotaMB: 7, Enabled: true, KeyHash: tenants.HashKey(keys[0])}
	if *tenant != want {
		t.Errorf("tenant is %+v, want %+v", *tenant, want)
	}
	mustContain(t, mustRead(t, m.config), `"note": "kept"`)
	if strings.Contains(r.stderr, keys[0]) {
		t.Error("the key is on standard error")
	}
}

// The printed command takes the tenant away again, keeps what it wrote, and
// leaves the way free for another try.
func TestMigrateRollback(t *testing.T) {
	m := mustMigration(t, realFiles(t))
	m.root += " with 'quotes' & spaces"
	mustMkdir(t, m.root)
	source := m.tree(m.from)
	config := mustRead(t, m.config)
	r := m.mustRun("--apply")
	mustWrite(t, m.root+"/acme/since.phext", "written since")

	if r := m.command("bash", "-c", lastLine(r.stdout)); r.code != 0 {
		t.Fatalf("rollback: exit status %d\n%s", r.code, r.stderr)
	}
	mustSameTree(t, source, m.tree(m.from))
	if m.tenant("acme") != nil {
		t.Error("the tenant is still there")
	}
	if got := mustRead(t, m.config); !sameJSON(t, got, config) {
		t.Errorf("%s is %s, was %s", m.config, got, config)
	}
	want := migrated(t)
	want["since.phext"] = "written since"
	mustHold(t, m.root+"/.rolled-back-acme", want)

	m.mustRun("--apply")
	mustHold(t, m.root+"/acme", migrated(t))
}

// Run by root, it leaves files that the user who runs the edge owns, and a
// tenants file which that user can rewrite.
func TestMigrateOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can give files away")
	}
	m := mustMigration(t, realFiles(t))
	const edge = 65534
	m.mustGive(edge)
	if err := os.Lchown(m.from, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := m.mustRun("--apply")
	for path := range m.tree(m.root, m.config) {
		mustOwn(t, path, edge)
	}
	if r := m.command("bash", "-c", lastLine(r.stdout)); r.code != 0 {
		t.Fatalf("rollback: exit status %d\n%s", r.code, r.stderr)
	}
	for path := range m.tree(m.dir + "/etc") {
		mustOwn(t, path, edge)
	}
	if m.tenant("acme") != nil {
		t.Error("the tenant is still there")
	}
}

func mustOwn(t *testing.T, path string, uid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != uid || stat.Gid != uid {
		t.Errorf("%s belongs to %d:%d, want %d:%d", path, stat.Uid, stat.Gid, uid, uid)
	}
}

// Whatever goes wrong on the way, all is as it was before.
func TestMigrateFails(t *testing.T) {
	tests := []struct {
		name  string
		setup func(t *testing.T, m *migration)
		want  string
	}{
		{
			name: "tenant has an entry",
			setup: func(t *testing.T, m *migration) {
				mustWrite(t, m.config, fmt.Sprintf(`{"admin_key": %q, "tenants": [{"id": "acme", "api_key": %q, "data_dir": "/nowhere"}]}`,
					tenants.NewAdminKey(), tenants.NewKey()))
			},
			want: "the tenant was not added",
		},
		{
			name:  "tenants file is bad",
			setup: func(t *testing.T, m *migration) { mustWrite(t, m.config, `{"tenants": [}`) },
			want:  "the tenant was not added",
		},
		{
			name:  "disk full",
			setup: func(_ *testing.T, m *migration) { m.instrument(`trap '' XFSZ; ulimit -f 100; exec "$real" "$@"`, "cp") },
			want:  "the copy was taken away again",
		},
		{
			name: "copy is not the original",
			setup: func(_ *testing.T, m *migration) {
				m.instrument(`"$real" "$@" || exit; printf x | dd of="$SQ_ROOT/.migrate-acme.tmp/odyssey.phext" bs=1 seek=5000 conv=notrunc status=none`, "cp")
			},
			want: "the copy differs from",
		},
		{
			name: "source grows during the copy",
			setup: func(_ *testing.T, m *migration) {
				m.instrument(`"$real" "$@" || exit; printf x >>"$SQ_FROM/odyssey.phext"`, "cp")
			},
			want: "changed during the copy",
		},
		{
			name: "source gets a document during the copy",
			setup: func(_ *testing.T, m *migration) {
				m.instrument(`"$real" "$@" || exit; echo new >"$SQ_FROM/new.phext"`, "cp")
			},
			want: "changed during the copy",
		},
		{
			name: "source renames a document during the copy",
			setup: func(_ *testing.T, m *migration) {
				m.instrument(`"$real" "$@" || exit; mv "$SQ_FROM/odyssey.phext" "$SQ_FROM/odysseus.phext"`, "cp")
			},
			want: "changed during the copy",
		},
		{
			name: "source gets a link before the copy",
			setup: func(_ *testing.T, m *migration) {
				m.instrument(`ln -sf /etc/passwd "$SQ_FROM/empty.phext"; exec "$real" "$@"`, "cp")
			},
			want: "became something else during the copy",
		},
		{
			name: "target appears during the copy",
			setup: func(_ *testing.T, m *migration) {
				m.instrument(`"$real" "$@" || exit; mkdir "$SQ_ROOT/acme"`, "cp")
			},
			want: "", // mv may say so itself
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := mustMigration(t, realFiles(t))
			m.env = []string{"SQ_ROOT=" + m.root, "SQ_FROM=" + m.from}
			test.setup(t, m)
			config := m.tree(m.config)
			r := m.run("--apply")
			if r.code != 1 {
				t.Errorf("exit status %d, want 1\n%s", r.code, r.stdout)
			}
			mustContain(t, r.stderr, test.want, m.from+" is untouched")
			mustSameTree(t, config, m.tree(m.config))
			// An empty folder is what another made in our way.
			if err := os.Remove(m.root + "/acme"); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
			mustHold(t, m.root, nil)
		})
	}
}

// Of several runs for one tenant at once, one wins and the others change nothing.
func TestMigrateConcurrently(t *testing.T) {
	m := mustMigration(t, realFiles(t))
	results := make([]result, 4)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i] = m.run("--apply") })
	}
	wg.Wait()
	done := 0
	for _, r := range results {
		if r.code == 0 {
			done++
			key := keyPattern.FindString(r.stdout)
			if tenant, _ := m.registry().ByKey(key); tenant == nil {
				t.Error("the winner's key opens nothing")
			}
		}
	}
	if done != 1 {
		t.Errorf("%d runs succeeded, want 1: %+v", done, results)
	}
	mustHold(t, m.root+"/acme", migrated(t))
	if err := os.RemoveAll(m.root + "/acme"); err != nil {
		t.Fatal(err)
	}
	mustHold(t, m.root, nil)
}
