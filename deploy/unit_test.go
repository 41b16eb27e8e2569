package deploy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// maxExposure is what the unit's exposure may be at most by systemd-analyze
// security, in tenths of its scale from 0 (none) to 10. What is left of it is
// network access, the capability for low ports and the calls that @chown and
// @resources allow.
const maxExposure = 20

// tool returns the command name, or skips the test where it is not installed.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("skipped: %s is not installed", name)
	}
	return path
}

// mustCommand returns what a command prints, and fails the test if it fails.
func mustCommand(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestUnitVerify(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	self, err := os.Executable() // exists and is executable, which is all that verify wants
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var units []string
	mustMkdir(t, filepath.Join(dir, "sqedge.service.d"))
	mustWrite(t, filepath.Join(dir, "sqedge.service.d/worker-uids.conf"), mustRead(t, "worker-uids.conf"))
	for _, name := range []string{"sqedge.service", "sqedge.socket"} {
		units = append(units, filepath.Join(dir, name))
		mustWrite(t, units[len(units)-1], strings.ReplaceAll(mustRead(t, name), "/usr/local/bin/caddy", self))
	}
	if out := mustCommand(t, analyze, append([]string{"verify", "--man=no"}, units...)...); strings.Contains(out, "sqedge") {
		t.Errorf("systemd-analyze verify warns:\n%s", out)
	}
}

func TestUnitSecurity(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	if out, err := exec.Command(analyze, "security", "--help").CombinedOutput(); err != nil || !strings.Contains(string(out), "--offline") {
		t.Skip("skipped: this systemd-analyze has no security --offline")
	}
	mustCommand(t, analyze, "security", "--no-pager", "--offline=true", fmt.Sprintf("--threshold=%d", maxExposure), mustAbs(t, "sqedge.service"))
}

// The user and the folders come out as the unit and migrate.sh need them.
func TestSysusersAndTmpfiles(t *testing.T) {
	sysusers, tmpfiles := tool(t, "systemd-sysusers"), tool(t, "systemd-tmpfiles")
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can make users and give folders away")
	}
	root := t.TempDir()
	for _, dir := range []string{"etc/sq", "var/lib"} {
		mustMkdir(t, filepath.Join(root, dir))
	}
	mustWrite(t, root+"/etc/sq/tenants.json", "{}")
	mustWrite(t, root+"/etc/sq/Caddyfile", "")
	mustCommand(t, sysusers, "--root="+root, mustAbs(t, "sqedge.sysusers.conf"))
	mustCommand(t, tmpfiles, "--root="+root, "--create", mustAbs(t, "sqedge.tmpfiles.conf"))

	var uid, gid uint32
	for line := range strings.Lines(mustRead(t, root+"/etc/passwd")) {
		if rest, ok := strings.CutPrefix(line, "sq:x:"); ok {
			if _, err := fmt.Sscanf(rest, "%d:%d:", &uid, &gid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if uid == 0 {
		t.Fatal("there is no user sq")
	}
	for _, want := range []struct {
		path string
		mode os.FileMode
		uid  uint32
	}{
		{"/etc/sq", 0o770, 0},
		{"/etc/sq/Caddyfile", 0o640, 0},
		{"/etc/sq/tenants.json", 0o600, uid},
		{"/var/lib/sq", 0o700, uid},
		{"/var/lib/sq/tenants", 0o700, uid},
	} {
		info, err := os.Stat(root + want.path)
		if err != nil {
			t.Error(err)
			continue
		}
		stat := info.Sys().(*syscall.Stat_t)
		if info.Mode().Perm() != want.mode || stat.Uid != want.uid || stat.Gid != gid {
			t.Errorf("%s is %v %d:%d, want %v %d:%d", want.path, info.Mode(), stat.Uid, stat.Gid, want.mode, want.uid, gid)
		}
	}
}

// Every SQ_ variable that is set for the edge is one that it reads.
func TestEnvironment(t *testing.T) {
	read := mustRead(t, "../Caddyfile")
	sources, err := filepath.Glob("../caddymodule/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range sources {
		read += mustRead(t, path)
	}
	variable := regexp.MustCompile(`\bSQ_[A-Z_]+`)
	for _, path := range []string{"sqedge.service", "Containerfile"} {
		names := variable.FindAllString(mustRead(t, path), -1)
		if len(names) == 0 {
			t.Errorf("%s sets no SQ_ variable", path)
		}
		for _, name := range names {
			if !regexp.MustCompile(name + `\b`).MatchString(read) {
				t.Errorf("%s sets %s, which neither the Caddyfile nor the module reads", path, name)
			}
		}
	}
}

func TestShellcheck(t *testing.T) {
	mustCommand(t, tool(t, "shellcheck"), "migrate.sh", "vm.sh", "vm-checks.sh")
}
