// Package deploy_test runs what this folder ships as its users would: the
// scripts on real files, the unit through systemd's own tools.
package deploy_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sqedge/sqedge/shared/tenants"
)

var keyPattern = regexp.MustCompile(`pmb-v1-[0-9a-f]{32}`)

// migration is a place to run migrate.sh in: a folder to migrate, a root where
// tenants live and a tenants file without tenants.
type migration struct {
	t                  *testing.T
	dir                string // holds all of the following
	from, root, config string
	script, caddy      string
	tools              string              // put before PATH; "" for none
	env                []string            // added to the environment
	user               *syscall.Credential // nil: the test's own
}

// mustMigration makes a migration whose source holds files, by name.
func mustMigration(t *testing.T, files map[string]string) *migration {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("skipped: migrate.sh needs GNU coreutils and util-linux, which only Linux has by default")
	}
	dir := t.TempDir()
	m := &migration{
		t: t, dir: dir,
		from:   filepath.Join(dir, "from"),
		root:   filepath.Join(dir, "root"),
		config: filepath.Join(dir, "etc", "tenants.json"),
		script: mustAbs(t, "migrate.sh"),
		caddy:  mustAbs(t, "../bin/caddy"),
	}
	if _, err := os.Stat(m.caddy); err != nil {
		t.Fatal("bin/caddy is missing: run ./xcaddy.sh build")
	}
	for _, d := range []string{m.from, m.root, filepath.Dir(m.config)} {
		mustMkdir(t, d)
	}
	for name, content := range files {
		mustWrite(t, filepath.Join(m.from, name), content)
	}
	mustWrite(t, m.config, fmt.Sprintf(`{"admin_key": %q, "tenants": [], "note": "kept"}`, tenants.NewAdminKey()))
	return m
}

// mustActAs makes uid the owner of all that m has, and the user who runs the
// script. Only root can.
func (m *migration) mustActAs(uid uint32) {
	m.t.Helper()
	m.mustGive(uid)
	m.user = &syscall.Credential{Uid: uid, Gid: uid}
}

// mustGive makes uid the owner of all that m has, within its reach.
func (m *migration) mustGive(uid uint32) {
	m.t.Helper()
	for _, program := range []*string{&m.script, &m.caddy} { // a checkout may be closed to others
		inside := filepath.Join(m.dir, filepath.Base(*program))
		mustWrite(m.t, inside, mustRead(m.t, *program))
		if err := os.Chmod(inside, 0o755); err != nil {
			m.t.Fatal(err)
		}
		*program = inside
	}
	if err := os.Chmod(filepath.Dir(m.dir), 0o755); err != nil { // t.TempDir's own
		m.t.Fatal(err)
	}
	for path := range m.tree(m.dir) {
		if err := os.Lchown(path, int(uid), int(uid)); err != nil {
			m.t.Fatal(err)
		}
	}
}

type result struct {
	code           int // -1: killed by a signal
	stdout, stderr string
}

// run runs migrate.sh for the tenant acme; args may override the defaults.
func (m *migration) run(args ...string) result {
	m.t.Helper()
	args = append([]string{"--from", m.from, "--id", "acme", "--root", m.root, "--config", m.config}, args...)
	return m.command(m.script, args...)
}

// command runs a program in the migration's environment, in a process group of
// its own.
func (m *migration) command(name string, args ...string) result {
	m.t.Helper()
	path := os.Getenv("PATH")
	if m.tools != "" {
		path = m.tools + ":" + path
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir = m.dir
	cmd.Env = append([]string{"PATH=" + path, "CADDY=" + m.caddy, "HOME=" + m.dir}, m.env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: m.user}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// mustRun is run for a migration that must succeed.
func (m *migration) mustRun(args ...string) result {
	m.t.Helper()
	r := m.run(args...)
	if r.code != 0 {
		m.t.Fatalf("migrate.sh %v: exit status %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r
}

// tenant returns the entry of id in the tenants file, or nil.
func (m *migration) tenant(id string) *tenants.Tenant {
	m.t.Helper()
	return m.registry().ByID(id)
}

func (m *migration) registry() *tenants.Registry {
	m.t.Helper()
	file, err := tenants.Open(m.config)
	if err != nil {
		m.t.Fatal(err)
	}
	return file.Registry()
}

// instrument puts a wrapper around each of the named programs into the script's
// PATH. The wrapper runs body, a shell fragment, and then the real program as
// "$real".
func (m *migration) instrument(body string, names ...string) {
	m.t.Helper()
	m.tools = filepath.Join(m.dir, "tools")
	mustMkdir(m.t, m.tools)
	for _, name := range names {
		real, err := exec.LookPath(name)
		if err != nil {
			m.t.Fatal(err)
		}
		wrapper := fmt.Sprintf("#!/bin/sh\nreal=%s\n%s\n", real, body)
		mustWrite(m.t, filepath.Join(m.tools, name), wrapper)
		if err := os.Chmod(filepath.Join(m.tools, name), 0o755); err != nil {
			m.t.Fatal(err)
		}
	}
}

// tree says for each path below the directories what it is: mode, owner, size,
// modification time and content. Two equal trees differ in nothing that the
// migration could have done.
func (m *migration) tree(dirs ...string) map[string]string {
	m.t.Helper()
	all := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			stat := info.Sys().(*syscall.Stat_t)
			about := fmt.Sprintf("%v %d:%d", info.Mode(), stat.Uid, stat.Gid)
			switch {
			case info.Mode().IsRegular():
				about += fmt.Sprintf(" %v %x", info.ModTime(), sha256.Sum256([]byte(mustRead(m.t, path))))
			case info.Mode()&fs.ModeSymlink != 0:
				link, _ := os.Readlink(path)
				about += " " + link
			}
			all[path] = about
			return nil
		})
		if err != nil {
			m.t.Fatal(err)
		}
	}
	return all
}

// everything is the tree of all that a migration must not touch unless it
// succeeds.
func (m *migration) everything() map[string]string {
	m.t.Helper()
	return m.tree(m.from, m.root, filepath.Dir(m.config))
}

func mustSameTree(t *testing.T, before, after map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if after[path] != before[path] {
			t.Errorf("%s was %q, is %q", path, before[path], after[path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[path]; !ok {
			t.Errorf("%s is new", path)
		}
	}
}

// mustHold checks that dir holds exactly the files, by name.
func mustHold(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		got[e.Name()] = mustRead(t, filepath.Join(dir, e.Name()))
	}
	if !maps.Equal(got, files) {
		t.Errorf("%s holds %q, want %q with their contents", dir, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(files)))
	}
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func mustMkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func mustWrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// mustContain checks that text has every one of the wanted parts.
func mustContain(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in:\n%s", w, text)
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}
