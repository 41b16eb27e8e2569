package supervisor

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/wire"
)

const testUID = 234_567

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can give files away")
	}
}

// mustOpenDir returns a directory that every user can reach.
func mustOpenDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sq")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func ownerOf(t *testing.T, path string) (uid int, mode uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != st.Gid {
		t.Errorf("%s has uid %d and gid %d", path, st.Uid, st.Gid)
	}
	return int(st.Uid), st.Mode & 0o7777
}

func mustGive(t *testing.T, dir string, uid int) {
	t.Helper()
	f, err := give(dir, uid, uid)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestGiveRefuses(t *testing.T) {
	needRoot(t)
	deep := strings.Repeat("d/", maxDepth+1)
	for _, tt := range []struct {
		name, want string
		make       func(dir, outside string) error
	}{
		{"a hard link to a file outside", `"notes.phext" has another name`, func(dir, outside string) error {
			return os.Link(outside, filepath.Join(dir, "notes.phext"))
		}},
		{"one in a folder", `".trash/notes.phext" has another name`, func(dir, outside string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, ".trash"), 0o700), os.Link(outside, filepath.Join(dir, ".trash/notes.phext")))
		}},
		{"too many folders", "folders in each other", func(dir, _ string) error { return os.MkdirAll(filepath.Join(dir, deep), 0o700) }},
		{"another disk", `"disk" is on another disk`, func(dir, _ string) error {
			disk := filepath.Join(dir, "disk")
			if err := os.Mkdir(disk, 0o700); err != nil {
				return err
			}
			t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
			return unix.Mount("none", disk, "tmpfs", 0, "")
		}},
	} {
		dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
		if err := errors.Join(os.WriteFile(outside, nil, 0o600), tt.make(dir, outside)); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if f, err := give(dir, testUID, testUID); err == nil || !strings.Contains(err.Error(), tt.want) {
			f.Close()
			t.Errorf("%s: %v", tt.name, err)
		}
		if uid, _ := ownerOf(t, outside); uid != 0 {
			t.Errorf("%s: the file outside is uid %d's", tt.name, uid)
		}
		if uid, _ := ownerOf(t, dir); uid != 0 {
			t.Errorf("%s: what was given only in part is uid %d's", tt.name, uid)
		}
	}
	if _, err := give(filepath.Join(t.TempDir(), "none"), testUID, testUID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// All of a directory is given, and taken back, and nothing that a link leads to.
func TestGive(t *testing.T) {
	needRoot(t)
	dir, outside := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, ".sq/deep"), 0o700),
		os.WriteFile(filepath.Join(dir, ".sq/owner"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "notes.phext"), nil, 0o644),
		os.WriteFile(filepath.Join(outside, "theirs"), nil, 0o600),
		os.Symlink(outside, filepath.Join(dir, "folder")),
		os.Symlink(filepath.Join(outside, "theirs"), filepath.Join(dir, "link.phext")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
		os.Chmod(dir, 0o755),
	); err != nil {
		t.Fatal(err)
	}
	inside := []string{".", ".sq", ".sq/deep", ".sq/owner", "notes.phext"}
	// As a crash leaves it: a folder below is given already, the top is not.
	if err := errors.Join(os.Chown(filepath.Join(dir, ".sq"), testUID, testUID)); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []int{testUID, testUID + 1, 0, testUID} {
		mustGive(t, dir, uid)
		for _, name := range inside {
			if got, _ := ownerOf(t, filepath.Join(dir, name)); got != uid {
				t.Errorf("%s is uid %d's, want %d's", name, got, uid)
			}
		}
		for _, path := range []string{outside, filepath.Join(outside, "theirs"), filepath.Join(dir, "pipe"), filepath.Join(dir, "folder")} {
			if got, _ := ownerOf(t, path); got != 0 {
				t.Errorf("%s is uid %d's", path, got)
			}
		}
		if _, mode := ownerOf(t, dir); mode != 0o700 {
			t.Errorf("the directory's mode is %o", mode)
		}
	}
	if _, mode := ownerOf(t, filepath.Join(dir, "notes.phext")); mode != 0o644 {
		t.Errorf("a file's mode became %o", mode)
	}
}

// mustUsers returns a supervisor whose workers have users of their own, with the
// book in which they are.
func mustUsers(t *testing.T, cfg Config) (*Supervisor, *owners.Book) {
	t.Helper()
	needRoot(t)
	book, err := owners.Open(filepath.Join(t.TempDir(), "tenants.owners.jsonl"), func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	// The test's own directory is root's alone.
	dir := mustOpenDir(t)
	worker := filepath.Join(dir, "sq-worker")
	text, err := os.ReadFile(cfg.Worker)
	if err == nil {
		err = os.WriteFile(worker, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg.Worker, cfg.Owners, cfg.UIDs = worker, book, owners.Range{First: testUID, Last: testUID + 9}
	s, _ := mustNew(t, cfg)
	return s, book
}

// The real worker runs as its tenant's user, in a folder that nobody else may
// enter, below one that it may not enter either; and as the edge's again where
// workers are to have no users.
func TestWorkersHaveUsers(t *testing.T) {
	unreachable := mustBuildWorker(t)
	s, book := mustUsers(t, Config{Worker: unreachable})
	if err := ProbeUIDs(s.cfg.Load().Worker, owners.Range{First: testUID, Last: testUID}); err != nil {
		t.Error(err)
	}
	if err := ProbeUIDs(unreachable, owners.Range{First: testUID, Last: testUID}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("of a worker binary that only root can reach: %v", err)
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o700); err != nil {
		t.Fatal(err)
	}
	users := map[int]string{}
	specs := []Spec{{Tenant: "acme", DataDir: filepath.Join(root, "acme")}, {Tenant: "beta", DataDir: filepath.Join(root, "beta")}}
	check := func(spec Spec) int {
		t.Helper()
		pid := s.Status(spec.Tenant).PID
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		uid, mode := ownerOf(t, spec.DataDir)
		for _, want := range []string{fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", uid), fmt.Sprintf("Gid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", uid), "Groups:\t \n"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("%s has no line %q:\n%s", spec.Tenant, want, status)
			}
		}
		if mode != 0o700 {
			t.Errorf("%s's directory has mode %o", spec.Tenant, mode)
		}
		if rss := s.Status(spec.Tenant).RSS; rss == 0 {
			t.Errorf("%s: its memory is not seen", spec.Tenant)
		}
		return uid
	}
	for i, spec := range specs {
		if err := os.Mkdir(spec.DataDir, 0o755); err != nil {
			t.Fatal(err)
		}
		// Migrated, by root.
		if err := os.WriteFile(filepath.Join(spec.DataDir, "old.phext"), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := insert(testContext(t), s, spec, 1, "new"); err != nil {
			t.Fatal(err)
		}
		if got := mustGet(t, s, spec, "/select?c="+spec.Tenant+".1.1.1/1.1.1/1.1.1&p=old"); got != "old" {
			t.Errorf("the old document is %q", got)
		}
		uid := check(spec)
		if other := users[uid]; other != "" || uid < testUID || uid > testUID+9 {
			t.Errorf("%s has uid %d, as %q", spec.Tenant, uid, other)
		}
		users[uid] = spec.Tenant
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", s.Status(spec.Tenant).PID))
		if want := fmt.Sprintf("Max processes             %d", wire.MaxThreads); i == 0 && (err != nil || !strings.Contains(string(limits), want)) && !raceEnabled {
			t.Errorf("%v, no %q in\n%s", err, want, limits)
		}
	}
	// A restart, and a kill by the edge, change nothing.
	before := check(specs[0])
	if err := s.Restart(testContext(t), specs[0]); err != nil {
		t.Fatal(err)
	}
	if after := check(specs[0]); after != before {
		t.Errorf("uid %d became %d", before, after)
	}
	cfg := *s.cfg.Load()
	cfg.UIDs = owners.Range{}
	if err := s.Update(cfg); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the workers to make way", func() bool { return s.Status("acme").State == Asleep && s.Status("beta").State == Asleep })
	if got := mustGet(t, s, specs[0], "/select?c=acme.1.1.1/1.1.1/1.1.1&p=notes"); got != "new" {
		t.Errorf("the document is %q", got)
	}
	if uid := check(specs[0]); uid != 0 || book.HasUID("acme") {
		t.Errorf("without users the directory is uid %d's", uid)
	}
}

// A worker with a user of its own can do nothing to another, even without any jail.
func TestHostileWorkerWithUser(t *testing.T) {
	needRoot(t)
	s, _ := mustUsers(t, Config{Worker: mustBuildHostile(t), Sandbox: wire.SandboxOff})
	root := mustOpenDir(t) // which the jail would forbid, and the data root's mode
	hostile, sibling := Spec{Tenant: "hostile", DataDir: filepath.Join(root, "hostile")}, Spec{Tenant: "sibling", DataDir: filepath.Join(root, "sibling")}
	for _, spec := range []Spec{hostile, sibling} {
		if err := os.Mkdir(spec.DataDir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"secret.phext", "spare"} {
			if err := os.WriteFile(filepath.Join(spec.DataDir, name), []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := do(testContext(t), s, spec, request(http.MethodGet, "/nothing", "")); err == nil || !strings.HasPrefix(err.Error(), "404") {
			t.Fatal(err)
		}
	}
	victim := s.Status("sibling").PID
	results := mustTry(t, s, hostile, sibling.DataDir, victim)
	refused := map[string]bool{
		"read a sibling's document": true, "read it by ..": true, "read it by /proc/self/root": true, "make a hard link to it": true,
		"map it": true, "write a sibling's document": true, "truncate it": true, "make a file beside it": true, "make a folder beside it": true,
		"take it by rename": true, "replace it by rename": true, "exchange it": true, "remove a file beside it": true, "chmod it": true,
		"chown it": true, "set its times": true, "watch it": true, "list a sibling's directory": true, "go to another directory": true,
		"list the sockets": true, "connect to a sibling's or the admin's socket": true, "read another's environment": true,
		"signal another": true, "signal its thread": true, "queue a signal": true, "signal by descriptor": true, "take a descriptor of another": true,
		"trace another": true, "read another's memory": true, "limit another": true, "slow another": true, "bind another to a processor": true,
		"become another user": true,
	}
	for _, r := range results {
		if refused[r.Name] {
			delete(refused, r.Name)
			if r.Error == "" {
				t.Errorf("%s: a worker with a user of its own can %s", r.Group, r.Name)
			}
		}
	}
	for name := range refused {
		t.Errorf("%s was not tried", name)
	}
	if text, err := os.ReadFile(filepath.Join(sibling.DataDir, "secret.phext")); err != nil || string(text) != "secret" {
		t.Errorf("afterwards the sibling's document is %q, %v", text, err)
	}
	if err := syscall.Kill(victim, 0); err != nil {
		t.Errorf("the sibling's worker: %v", err)
	}
}
