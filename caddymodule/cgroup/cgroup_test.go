package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
`

const unified = `25 30 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw
26 25 0:23 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`

func TestOwnGroup(t *testing.T) {
	for _, tt := range []struct{ name, cgroup, mounts, want string }{
		{"none", "", unified, "cgroup v1 only"},
		{"v1 only", "4:memory:/a\n1:cpu:/a\n", unified, "cgroup v1 only"},
		{"not mounted", "0::/a\n", strings.Split(hybrid, "41 ")[0], "no mount of cgroup v2 shows"},
		{"mount of another part", "0::/a\n", "26 25 0:23 /b /mnt rw - cgroup2 cgroup2 rw\n", "no mount of cgroup v2 shows"},
		{"mount of a neighbour's", "0::/ab\n", "26 25 0:23 /a /mnt rw - cgroup2 cgroup2 rw\n", "no mount of cgroup v2 shows"},
		{"outside of the namespace", "0::/../a\n", unified, "no mount of cgroup v2 shows"},
		{"cut short", "0::/a\n", "26 25 0:23 - cgroup2 cgroup2 rw\n26\n\n", "no mount of cgroup v2 shows"},
		{"root", "0::/\n", unified, "/sys/fs/cgroup"},
		{"service", "0::/system.slice/sqedge.service\n", unified, "/sys/fs/cgroup/system.slice/sqedge.service"},
		{"hybrid", "4:memory:/b\n0::/a\n", hybrid, "/sys/fs/cgroup/unified/a"},
		{"bind mount", "0::/a/b/c\n", "26 25 0:23 /a/b /mnt rw - cgroup2 cgroup2 rw\n", "/mnt/c"},
		{"blank", "0::/a b\n", "26 25 0:23 / /my\\040mnt rw - cgroup2 cgroup2 rw\n", "/my mnt/a b"},
		{"first that shows it", "0::/a\n", "1 2 0:3 /b /no rw - cgroup2 x rw\n" + unified, "/sys/fs/cgroup/a"},
	} {
		got, err := ownGroup(tt.cgroup, tt.mounts)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// fake is the files of a delegated group, as a kernel that has these controllers
// makes them, with groups for the edge and acme.
func fake(t *testing.T, controllers, procs string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "sqedge.service")
	files := map[string]string{
		"cgroup.procs": procs, "cgroup.controllers": controllers, "cgroup.subtree_control": "",
		"edge/cgroup.procs": "", "tenants/cgroup.subtree_control": "",
	}
	for _, c := range []struct{ name, file string }{{"cpu", "cpu.weight"}, {"cpu", "cpu.idle"}, {"memory", "memory.max"}, {"memory", "memory.events"}, {"pids", "pids.max"}} {
		if strings.Contains(controllers, c.name) {
			files["edge/"+c.file], files["tenants/acme/"+c.file] = "", ""
		}
	}
	for path, text := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestNotDelegated(t *testing.T) {
	for _, procs := range []string{"1\n", "7\n8\n", "0\n7\n"} { // 0: of another namespace
		dir := fake(t, "cpu memory pids", procs)
		if tree, err := arrange(dir, 7); err == nil || !strings.Contains(err.Error(), "not the edge's alone") {
			t.Errorf("with the processes %q: %v, %v", procs, tree, err)
		}
		if read(t, dir, "cgroup.subtree_control")+read(t, dir, "edge/cgroup.procs") != "" {
			t.Errorf("with the processes %q something was changed", procs)
		}
	}
	if _, err := arrange(filepath.Join(t.TempDir(), "none"), 7); err == nil {
		t.Error("a group that is not there was arranged")
	}
}

func TestArrange(t *testing.T) {
	for _, tt := range []struct {
		name, controllers, procs, in string
		applied, missing             string
	}{
		{"all", "cpuset cpu io memory pids\n", "7\n", "", "a group for each worker, memory.max, cpu.weight, pids.max", ""},
		{"moved already", "cpu memory pids\n", "", EdgeGroup, "a group for each worker, memory.max, cpu.weight, pids.max", ""},
		{"some", "memory pids\n", "7\n", "", "a group for each worker, memory.max, pids.max", "no cpu.weight, since the controller cpu is not delegated"},
		{"none", "\n", "7\n", "", "a group for each worker", "no pids.max"},
	} {
		dir := fake(t, tt.controllers, tt.procs)
		tree, err := arrange(filepath.Join(dir, tt.in), 7)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if tree.Applied() != tt.applied || !strings.Contains(tree.Missing(), tt.missing) || tt.missing == "" && tree.Missing() != "" {
			t.Errorf("%s: applied %q, missing %q", tt.name, tree.Applied(), tree.Missing())
		}
		if got := read(t, dir, "edge/cgroup.procs"); got != "7" {
			t.Errorf("%s: the edge's group has %q", tt.name, got)
		}
		if strings.Contains(tt.controllers, "cpu") && read(t, dir, "edge/cpu.weight") != "200" {
			t.Errorf("%s: the edge has no weight", tt.name)
		}
		g, err := tree.Make("acme", Limits{Memory: 1 << 30, PIDs: 512})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for _, file := range []struct{ name, want string }{{"memory.max", "1073741824"}, {"cpu.weight", "100"}, {"pids.max", "512"}} {
			if path := filepath.Join(dir, "tenants/acme", file.name); strings.Contains(tt.applied, file.name) && read(t, path) != file.want {
				t.Errorf("%s: %s is %q, want %s", tt.name, file.name, read(t, path), file.want)
			}
		}
		if err := g.SetCPUWeight(300); err != nil || strings.Contains(tt.applied, "cpu") && read(t, dir, "tenants/acme/cpu.weight") != "300" {
			t.Errorf("%s: the weight is not changed: %v", tt.name, err)
		}
		mustIdle(t, g, dir)
	}
}

// mustIdle makes acme's group idle and back. Its weight may change meanwhile, and
// must be in force afterwards: the kernel takes none for an idle group, and forgets
// the one it had.
func mustIdle(t *testing.T, g *Group, dir string) {
	t.Helper()
	if !g.Weighs() {
		return
	}
	group := filepath.Join(dir, "tenants/acme")
	for range 2 { // the second time changes nothing
		if err := g.SetIdle(true); err != nil || read(t, group, "cpu.idle") != "1" {
			t.Errorf("the group is not idle: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(group, "cpu.weight"), []byte("forgotten"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.SetCPUWeight(500); err != nil || read(t, group, "cpu.weight") != "forgotten" {
		t.Errorf("an idle group was given a weight: %v", err)
	}
	if err := g.SetIdle(false); err != nil || read(t, group, "cpu.idle") != "0" || read(t, group, "cpu.weight") != "500" {
		t.Errorf("the group is idle still, or without its weight: %v", err)
	}
}

// A kill for want of memory counts if it came after the group was made, which may
// be another worker's that stayed.
func TestOutOfMemory(t *testing.T) {
	dir := fake(t, "cpu memory pids", "7\n")
	tree, err := arrange(dir, 7)
	if err != nil {
		t.Fatal(err)
	}
	events := filepath.Join(dir, "tenants/acme/memory.events")
	for _, text := range []string{"", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"} {
		if err := os.WriteFile(events, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		g, err := tree.Make("acme", Limits{Memory: 1, PIDs: 1})
		if err != nil {
			t.Fatal(err)
		}
		if g.OutOfMemory() {
			t.Errorf("out of memory at once, by %q", text)
		}
		if err := os.WriteFile(events, []byte("max 10\noom 9\noom_kill 3\noom_group_kill 0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if !g.OutOfMemory() {
			t.Errorf("after %q a kill is not seen", text)
		}
	}
}

// What a group says is its processes' memory, without the caches of files.
func TestResident(t *testing.T) {
	g := &Group{dir: t.TempDir()}
	if got := g.Resident(); got != 0 {
		t.Errorf("without a file it is %d", got)
	}
	if err := os.WriteFile(filepath.Join(g.dir, "memory.stat"), []byte("anon 4096\nfile 900000\nfile_mapped 8192\nanon_thp 5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := g.Resident(); got != 12288 {
		t.Errorf("it is %d", got)
	}
}
