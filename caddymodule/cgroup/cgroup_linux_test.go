package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutClone3 in the environment has TestRealGroups do without clone3.
const withoutClone3 = "SQ_CGROUP_WITHOUT_CLONE3"

// What RestrictNamespaces= of systemd takes from the edge its workers do not need to
// be in their groups.
func TestRealGroupsWithoutClone3(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run=^TestRealGroups$")
	cmd.Env = append(os.Environ(), withoutClone3+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
}

// denyClone3 has clone3 fail as on a kernel that does not have it, for good.
func denyClone3(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_CLONE3},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		t.Fatal(errno)
	}
	if StartsInside() {
		t.Fatal("clone3 is still there")
	}
}

// In a group of the kernel's own, where what it cannot do shows.
func TestRealGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can make a group here")
	}
	if os.Getenv(withoutClone3) != "" {
		denyClone3(t)
	}
	mounts := read(t, "/proc/self/mountinfo")
	root, err := ownGroup("0::/\n", mounts)
	if err != nil {
		t.Skip("skipped: ", err)
	}
	dir := filepath.Join(root, fmt.Sprintf("sq-cgroup-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("skipped: ", err)
	}
	t.Cleanup(func() {
		for _, group := range []string{tenantsGroup, EdgeGroup, ""} {
			if err := os.Remove(filepath.Join(dir, group)); err != nil {
				t.Error(err)
			}
		}
	})
	start := func(g *Group) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("sleep", "3600")
		if err := g.Start(cmd); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	end := func(cmd *exec.Cmd) {
		cmd.Process.Kill()
		cmd.Wait()
	}
	of := func(cmd *exec.Cmd) string {
		got, err := ownGroup(read(t, "/proc", strconv.Itoa(cmd.Process.Pid), "cgroup"), mounts)
		if err != nil {
			t.Error(err)
		}
		return got
	}
	edge := start(&Group{dir: dir})
	defer end(edge)
	tree, err := arrange(dir, edge.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("applied: %s; missing: %s", tree.Applied(), tree.Missing())
	if got := of(edge); got != filepath.Join(dir, EdgeGroup) {
		t.Errorf("the edge is in %s", got)
	}
	// As after a restart, or where the service manager has moved it.
	if tree, err = arrange(filepath.Join(dir, EdgeGroup), edge.Process.Pid); err != nil {
		t.Fatal(err)
	}
	g, err := tree.Make("acme", Limits{Memory: 64 << 20, CPUWeight: 300, PIDs: 512})
	if err != nil {
		t.Fatal(err)
	}
	worker := start(g)
	if got := of(worker); got != filepath.Join(dir, "tenants/acme") {
		t.Errorf("the worker is in %s", got)
	}
	for _, c := range []struct{ controller, file, want string }{{"memory", "memory.max", "67108864"}, {"cpu", "cpu.weight", "300"}, {"pids", "pids.max", "512"}} {
		if !slices.Contains(tree.has, c.controller) {
			t.Logf("skipped: %s: the controller is not in cgroup v2 here", c.file)
		} else if got := strings.TrimSpace(read(t, g.dir, c.file)); got != c.want {
			t.Errorf("%s is %s, want %s", c.file, got, c.want)
		}
	}
	if err := g.SetCPUWeight(0); err != nil {
		t.Error(err)
	}
	if g.Remove() == nil {
		t.Error("a group with a process was removed")
	}
	tree.sweep()
	if got := of(worker); got != g.dir {
		t.Errorf("after a sweep the worker is in %s", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "tenants/left"), 0o755); err != nil {
		t.Fatal(err)
	}
	end(worker)
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if err := g.Remove(); err != nil {
		t.Errorf("the second time: %v", err)
	}
	tree.sweep()
	if left, err := filepath.Glob(filepath.Join(dir, "tenants/*/cgroup.procs")); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	end(edge)
}
