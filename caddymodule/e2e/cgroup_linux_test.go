package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/wire"
)

// mustGroup makes a cgroup v2 that is the edge's alone, as a service manager
// delegates it, and has the edge start in it.
func mustGroup(t *testing.T, e *Edge) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can make a cgroup here")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	found := regexp.MustCompile(`(?m)^\S+ \S+ \S+ / (\S+) .* - cgroup2 `).FindSubmatch(mounts)
	if found == nil {
		t.Skip("skipped: cgroup v2 is not mounted")
	}
	dir = filepath.Join(string(found[1]), "sq-e2e-"+filepath.Base(e.dir))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("skipped: ", err)
	}
	group, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { group.Close() })
	e.attr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	e.onEnd = func() {
		for _, group := range []string{"tenants", "edge", ""} {
			if err := os.Remove(filepath.Join(dir, group)); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		}
	}
	return dir
}

// part returns what health says of one part of the jail.
func (e *Edge) part(name string) wire.SandboxPart {
	e.t.Helper()
	var h sandboxHealth
	e.Admin("GET", "health", "", 200, &h)
	for _, p := range h.Sandbox.Parts {
		if p.Name == name {
			return p
		}
	}
	e.t.Errorf("health has no %s: %+v", name, h.Sandbox)
	return wire.SandboxPart{}
}

// mustControl returns what a file of the kernel's says, or "" where it is not there,
// with its reason in the log.
func mustControl(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		t.Logf("skipped: no %s, since its controller is not in cgroup v2 here", filepath.Base(path))
	} else {
		must(t, err)
	}
	return strings.TrimSpace(string(text))
}

// withoutClone3 in the environment has an edge do without clone3, as
// RestrictNamespaces= of systemd does.
const withoutClone3 = "SQ_E2E_WITHOUT_CLONE3"

func init() {
	if os.Getenv(withoutClone3) == "" {
		return
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_CLONE3},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		panic(errno)
	}
}

// Each worker has a group of its own beside the edge's, for as long as it runs, in
// which it begins, or into which a spare one is moved.
func TestWorkersHaveGroups(t *testing.T) {
	for name, tt := range map[string]struct {
		env    []string
		spares float64
	}{"begin there": {nil, 0}, "are moved": {[]string{withoutClone3 + "=1"}, 16}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testWorkersHaveGroups(t, tt.env, tt.spares)
		})
	}
}

func testWorkersHaveGroups(t *testing.T, env []string, spares float64) {
	e := Prepare(t, Setup{Plain: true, Env: env})
	dir := mustGroup(t, e)
	e.Boot()
	Eventually(t, "there are as many spares as there are to be", func() error {
		if n := e.Metric("sq_workers_spare"); n != spares {
			return fmt.Errorf("there are %v", n)
		}
		return nil
	})
	for p, name := range e.processes() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
		if err != nil || !strings.Contains(string(text), "/"+filepath.Base(dir)+"/edge\n") {
			t.Errorf("the spare %s is in %q, %v", name, text, err)
		}
	}
	in := func(pid int, group string) {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || !strings.Contains(string(text), "0::/"+filepath.Join(filepath.Base(dir), group)+"\n") {
			t.Errorf("process %d is in %q, %v; want %s", pid, text, err, group)
		}
	}
	in(e.cmd.Process.Pid, "edge")
	for _, tenant := range []string{"alpha", "beta"} {
		e.Want("tok-"+tenant, "GET", "/toc?p=notes", "", 200, "")
		in(e.Worker(tenant), "tenants/"+tenant)
	}
	part := e.part("cgroup")
	if !strings.HasPrefix(part.Applied, "a group for each worker") {
		t.Errorf("health says %+v", part)
	}
	t.Logf("applied: %s; missing: %s", part.Applied, part.Missing)

	alpha := filepath.Join(dir, "tenants/alpha")
	pid := e.Worker("alpha")
	for file, want := range map[string]string{"cpu.weight": "100", "pids.max": fmt.Sprint(wire.MaxThreads), "memory.max": fmt.Sprint(2*wire.DefaultMemory<<20 + 3*wire.MaxText)} {
		if got := mustControl(t, filepath.Join(alpha, file)); got != "" && got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	// Another weight holds at once, and the worker goes on.
	heavy := e.Tenant("alpha")
	heavy.Limits = map[string]int{"cpu_weight": 300}
	e.WriteTenants(heavy, e.Tenant("beta"))
	Eventually(t, "the weight is in force", func() error {
		if got := mustControl(t, filepath.Join(alpha, "cpu.weight")); got != "" && got != "300" {
			return fmt.Errorf("it is %s", got)
		}
		if n := strings.Count(e.Log(), "tenants.json is in force"); n != 1 {
			return fmt.Errorf("tenants.json was taken %d times", n)
		}
		return nil
	})
	e.Want("tok-alpha", "GET", "/toc?p=notes", "", 200, "")
	if again := e.Worker("alpha"); again != pid {
		t.Errorf("the worker was %d and is %d", pid, again)
	}

	e.Admin("POST", "workers/alpha/park", "", 200, nil)
	if _, err := os.Stat(alpha); !os.IsNotExist(err) {
		t.Errorf("the parked worker's group is still there: %v", err)
	}
	e.Kill()
	must(t, os.MkdirAll(filepath.Join(dir, "tenants/left"), 0o755))
	Eventually(t, "the killed edge's workers are gone", func() error {
		for _, group := range []string{"edge", "tenants/beta"} {
			if procs, err := os.ReadFile(filepath.Join(dir, group, "cgroup.procs")); err == nil && len(procs) != 0 {
				return fmt.Errorf("%s has %q", group, procs)
			}
		}
		return nil
	})
	// A group that has controllers for its children may have no process, so that a
	// service manager either removes them all first, or starts the edge where it was.
	edge, err := os.Open(filepath.Join(dir, "edge"))
	must(t, err)
	defer edge.Close()
	e.attr.CgroupFD = int(edge.Fd())
	e.Boot()
	for _, left := range []string{"left", "beta"} {
		if _, err := os.Stat(filepath.Join(dir, "tenants", left)); !os.IsNotExist(err) {
			t.Errorf("the group %s is still there: %v", left, err)
		}
	}
	e.Quit()

	if part.Missing == "" {
		t.Log("skipped: what strict says of missing controllers: none is missing here")
		return
	}
	e.edit("# sandbox default", "sandbox strict")
	if out := e.StartFails(); !strings.Contains(out, "sandbox strict") || !strings.Contains(out, "cgroup: no ") {
		t.Errorf("under strict the edge ended with\n%s", out)
	}
}
