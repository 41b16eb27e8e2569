package e2e

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// running is a started ./xcaddy.sh run.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	said   string // until it served
	output *bufio.Reader
}

// xcaddyRun runs ./xcaddy.sh run in a directory of its own, as a stranger would
// in a terminal, and waits until it says that it serves.
func xcaddyRun(t *testing.T, dir string, port int) *running {
	t.Helper()
	cmd := exec.Command("../../xcaddy.sh", "run")
	cmd.Env = append(os.Environ(), "SQ_RUN="+dir, fmt.Sprintf("SQ_SITE=localhost:%d", port))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what Ctrl-C ends is the group
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	r := &running{t: t, cmd: cmd, output: bufio.NewReader(out)}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			cmd.Wait()
		}
	})
	for !strings.Contains(r.said, "Ctrl-C ends it.") {
		line, err := r.output.ReadString('\n')
		r.said += line
		if err != nil {
			t.Fatalf("it ended after saying %q", r.said)
		}
	}
	return r
}

// interrupt presses Ctrl-C and waits for the end, which must be clean.
func (r *running) interrupt() {
	r.t.Helper()
	members := r.group()
	must(r.t, syscall.Kill(-r.cmd.Process.Pid, syscall.SIGINT))
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("after Ctrl-C: %v", err)
	}
	for _, pid := range members {
		if processAlive(pid) {
			r.t.Errorf("process %d is left", pid)
		}
	}
}

// group returns the pids of the script's children and theirs: the workers have
// process groups of their own.
func (r *running) group() (pids []int) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(r.t, err)
	parents := map[int]bool{r.cmd.Process.Pid: true}
	for range 3 { // the script, the edge, its workers
		for _, path := range stats {
			stat, _ := os.ReadFile(path)
			_, rest, _ := strings.Cut(string(stat), ") ")
			fields := strings.Fields(rest)
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if len(fields) < 2 {
				continue
			}
			if parent, _ := strconv.Atoi(fields[1]); parents[parent] && !parents[pid] {
				parents[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// curl pastes a line into another terminal and returns what it prints.
func (r *running) curl(line string) string {
	r.t.Helper()
	cmd := exec.Command("bash", "-c", line)
	cmd.Dir = "/" // the line must work anywhere
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("%s: %v", line, err)
	}
	return string(out)
}

func TestRunServesAndItsCurlLinesWork(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "sq run") // paths may hold spaces
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	port := freePort(t)
	r := xcaddyRun(t, dir, port)

	var lines []string
	for line := range strings.Lines(r.said) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "curl ") {
			lines = append(lines, line)
		}
	}
	want := []string{
		`^Inserted 12 bytes$`,
		`^Hello, phext$`,
		`^\* 1\.1\.1/1\.1\.1/1\.1\.1: Hello, phext\n?$`,
		`(?s)^\{.*"id": "acme",.*"api_key": "pmb-v1-[0-9a-f]{32}",.*"quota_mb": 500`,
		`(?s)^\{.*"id": "demo",.*"storage_bytes": 12,.*"state": "ready"`,
		`(?m)^sq_storage_bytes\{tenant="demo"\} 12$`,
	}
	if len(lines) != len(want) {
		t.Fatalf("it printed %d curl lines, want %d:\n%s", len(lines), len(want), r.said)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, "curl --cacert ") {
			t.Errorf("without --cacert: %s", line)
		}
		if got := r.curl(line); !regexp.MustCompile(want[i]).MatchString(got) {
			t.Errorf("%s\nprints %s\nwant %s", line, clip(got), want[i])
		}
	}
	keys := regexp.MustCompile(`pmb-(v1|admin)-[0-9a-f]{32}`).FindAllString(r.said, -1)
	slices.Sort(keys)
	if keys = slices.Compact(keys); len(keys) != 2 {
		t.Errorf("it showed %d keys, want the admin's and the demo tenant's", len(keys))
	}
	if ports := r.ports(); !slices.Equal(ports, []int{port}) {
		t.Errorf("it listens on the TCP ports %v, want %d alone", ports, port)
	}
	for path, mode := range map[string]os.FileMode{"": os.ModeDir | 0o700, "tenants.json": 0o600, "tenants/demo": os.ModeDir | 0o700, "edge.log": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	r.interrupt()

	// Started again it has its data and keys, and does not show them.
	r = xcaddyRun(t, dir, port)
	for _, key := range keys {
		if strings.Contains(r.said, key) {
			t.Error("a key was shown a second time")
		}
	}
	if got := r.curl(lines[1]); got != "Hello, phext" {
		t.Errorf("after a restart %s prints %s", lines[1], got)
	}
	if got := r.curl(lines[4]); !regexp.MustCompile(want[4]).MatchString(got) {
		t.Errorf("after a restart the stats are %s", got)
	}
	r.interrupt()
	log, err := os.ReadFile(filepath.Join(dir, "edge.log"))
	must(t, err)
	for _, key := range keys {
		if strings.Contains(string(log), key) {
			t.Error("the log holds a key")
		}
	}
}

// ports returns the TCP ports on which the script's processes listen.
func (r *running) ports() (ports []int) {
	r.t.Helper()
	inodes := make(map[string]bool)
	for _, pid := range r.group() {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "socket:[") {
				inodes[strings.Trim(target, "socket:[]")] = true
			}
		}
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		must(r.t, err)
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != "0A" || !inodes[fields[9]] { // 0A: it listens
				continue
			}
			_, hexPort, _ := strings.Cut(fields[1], ":")
			b, err := hex.DecodeString(hexPort)
			must(r.t, err)
			ports = append(ports, int(b[0])<<8|int(b[1]))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func TestRunSaysWhyTheEdgeDidNotStart(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "sqrun")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.WriteFile(filepath.Join(dir, "tenants.json"), []byte(`{"admin_key": 7}`), 0o600))
	cmd := exec.Command("../../xcaddy.sh", "run")
	cmd.Env = append(os.Environ(), "SQ_RUN="+dir, fmt.Sprintf("SQ_SITE=localhost:%d", freePort(t)))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "tenants.json:1:15: admin_key must be a string") {
		t.Errorf("%v\n%s", err, out)
	}
}
