package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/jail"
)

// missing returns what this machine lacks of a worker's jail.
func missing(t *testing.T) string {
	t.Helper()
	out, err := command(t, "sandbox").Output()
	if err != nil {
		t.Fatal(err)
	}
	var parts []wire.SandboxPart
	if err := json.Unmarshal(out, &parts); err != nil || len(parts) == 0 {
		t.Fatalf("sq-worker sandbox prints %q, %v", out, err)
	}
	for _, p := range parts {
		if p.Applied == "" && p.Missing == "" {
			t.Errorf("%s is neither applied nor missing", p.Name)
		}
	}
	return wire.MissingSandbox(parts)
}

// The kernel's own account of a worker that has served a request, whose files
// nobody else may read.
func TestSandbox(t *testing.T) {
	if what := missing(t); what != "" {
		t.Skip("skipped: this machine does not have all of the jail: " + what)
	}
	dir := t.TempDir()
	w := startWorker(t, dir, "-sandbox", "strict")
	mustAsk(t, w.client, "POST", "/insert"+noteURI, "secret")
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", w.Process.Pid))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads %v, %v", tasks, err)
	}
	for _, task := range tasks {
		status := mustReadFile(t, fmt.Sprintf("/proc/%d/task/%s/status", w.Process.Pid, task.Name()))
		for _, want := range []string{
			`Umask:\s+0077`, `NoNewPrivs:\s+1`, `Seccomp:\s+2`,
			`CapInh:\s+0+`, `CapPrm:\s+0+`, `CapEff:\s+0+`, `CapAmb:\s+0+`,
		} {
			if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(status) {
				t.Errorf("the status of thread %s has no line %s:\n%s", task.Name(), want, status)
			}
		}
	}
	limits := mustReadFile(t, fmt.Sprintf("/proc/%d/limits", w.Process.Pid))
	for name, most := range map[string]uint64{"Max core file size": 0, "Max open files": jail.MaxFiles, "Max file size": jail.MaxFileSize, "Max data size": jail.MaxMemory + 2*wire.DefaultMemory<<20} {
		var soft, hard uint64
		line := regexp.MustCompile(`(?m)^` + name + ` +(\d+) +(\d+) `).FindStringSubmatch(limits)
		if line != nil {
			fmt.Sscan(line[1], &soft)
			fmt.Sscan(line[2], &hard)
		}
		if line == nil || soft > most || hard > most {
			t.Errorf("%s is above %d:\n%s", name, most, limits)
		}
	}
	w.lifeline.Close()
	if err := w.Wait(); err != nil {
		t.Fatalf("%v: %s", err, w.stderr)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func mustReadFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A worker holds its pipes, its socket, its tenant's files and the runtime's own
// descriptors, and no more.
func TestDescriptorsOfWorker(t *testing.T) {
	dir := t.TempDir()
	w := startWorker(t, dir)
	mustAsk(t, w.client, "POST", "/insert"+noteURI, "x")
	fds := fmt.Sprintf("/proc/%d/fd", w.Process.Pid)
	entries, err := os.ReadDir(fds)
	if os.IsPermission(err) {
		t.Skip("skipped: only root may look at the descriptors of a process that is not dumpable")
	}
	if err != nil {
		t.Fatal(err)
	}
	expected := regexp.MustCompile(`^(/dev/null|pipe:.*|socket:.*|anon_inode:\[event(poll|fd)\]|` + regexp.QuoteMeta(dir) + `(/.*)?)$`)
	for _, entry := range entries {
		link, err := os.Readlink(filepath.Join(fds, entry.Name()))
		if err == nil && !expected.MatchString(link) {
			t.Errorf("descriptor %s is %s", entry.Name(), link)
		}
	}
}

// The jail needs the directory it is built around.
func TestSandboxWithoutDirectory(t *testing.T) {
	w := startWorker(t, filepath.Join(t.TempDir(), "none"), "-sandbox", "default")
	if !strings.Contains(w.ready, "no such file or directory") {
		t.Errorf("ready line %q, want the reason", w.ready)
	}
	w.Wait()
}

// A worker under off is not jailed, but leaves no core file.
func TestSandboxOff(t *testing.T) {
	w := startWorker(t, t.TempDir(), "-sandbox", "off")
	mustAsk(t, w.client, "POST", "/insert"+noteURI, "x")
	if status := mustReadFile(t, fmt.Sprintf("/proc/%d/status", w.Process.Pid)); !regexp.MustCompile(`(?m)^NoNewPrivs:\s+0$`).MatchString(status) {
		t.Errorf("it is jailed:\n%s", status)
	}
	if limits := mustReadFile(t, fmt.Sprintf("/proc/%d/limits", w.Process.Pid)); !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).MatchString(limits) {
		t.Errorf("core files are allowed:\n%s", limits)
	}
}
