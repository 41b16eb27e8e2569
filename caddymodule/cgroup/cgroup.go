// Package cgroup arranges the part of the cgroup v2 hierarchy that was delegated
// to the edge: a group for the edge, and beside it one for each worker's process.
//
//	the delegated group
//	├── edge             the edge's own processes
//	└── tenants
//	    ├── acme         the worker of acme: memory.max, cpu.weight, pids.max
//	    └── …
package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// EdgeGroup is the name of the edge's own group. A service manager may have put
// the edge there already (DelegateSubgroup= of systemd).
const EdgeGroup = "edge"

const tenantsGroup = "tenants"

// edgeWeight is the edge's share of the processor beside 100 for all workers
// together, where both want all of it. A request costs the edge about twice what
// it costs a worker, so that neither starves the other, however many workers
// there are. Nobody goes without what the other leaves.
const edgeWeight = 200

// DefaultWeight is the cpu.weight of a worker without one of its own.
const DefaultWeight = 100

// controllers are what workers' groups need, and the files by which they work.
var controllers = []struct{ name, file string }{
	{"memory", "memory.max"}, {"cpu", "cpu.weight"}, {"pids", "pids.max"},
}

// Tree is the delegated group.
type Tree struct {
	dir     string
	has     []string // controllers that workers' groups have
	lacking []string // that they have not, each with its reason
}

// Limits are a worker's.
type Limits struct {
	Memory    int64 // memory.max in bytes, caches of its files included; none goes to swap
	CPUWeight int   // cpu.weight, 1 to 10000; 0 for [DefaultWeight]
	PIDs      int   // pids.max: threads
}

// arrange makes dir, the group of the process pid or that above it, what the
// package's picture says.
func arrange(dir string, pid int) (*Tree, error) {
	if filepath.Base(dir) == EdgeGroup {
		dir = filepath.Dir(dir)
	}
	// A group with controllers for its children may have no process of its own,
	// and others are not ours to move.
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("the group of the edge cannot be read: %w", err)
	}
	for _, other := range strings.Fields(string(procs)) {
		if other != strconv.Itoa(pid) {
			return nil, fmt.Errorf("the group %s is not the edge's alone: start the edge as a service with Delegate=yes", dir)
		}
	}
	t := &Tree{dir: dir}
	for _, group := range []string{EdgeGroup, tenantsGroup} {
		if err := os.Mkdir(filepath.Join(dir, group), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("the group of the edge is not delegated to it: %w", err)
		}
	}
	if err := t.set(EdgeGroup, "cgroup.procs", strconv.Itoa(pid)); err != nil {
		return nil, fmt.Errorf("the edge cannot move into a group of its own: %w", err)
	}
	there, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("the controllers of the edge's group cannot be read: %w", err)
	}
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(there)), c.name) {
			t.lacking = append(t.lacking, fmt.Sprintf("no %s, since the controller %s is not delegated, or is used by cgroup v1", c.file, c.name))
			continue
		}
		err := t.set("", "cgroup.subtree_control", "+"+c.name)
		if err == nil {
			err = t.set(tenantsGroup, "cgroup.subtree_control", "+"+c.name)
		}
		if err != nil {
			t.lacking = append(t.lacking, fmt.Sprintf("no %s: %v", c.file, err))
			continue
		}
		t.has = append(t.has, c.name)
	}
	if slices.Contains(t.has, "cpu") {
		if err := t.set(EdgeGroup, "cpu.weight", strconv.Itoa(edgeWeight)); err != nil {
			return nil, err
		}
	}
	t.sweep()
	return t, nil
}

// set writes a file of a group below the tree's.
func (t *Tree) set(group, file, value string) error {
	return write(filepath.Join(t.dir, group, file), value)
}

// write writes a file of the kernel's, which must be there.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// sweep removes what an edge that was killed has left. Groups in which there is
// still somebody stay.
func (t *Tree) sweep() {
	entries, _ := os.ReadDir(filepath.Join(t.dir, tenantsGroup))
	for _, e := range entries {
		if e.IsDir() {
			os.Remove(filepath.Join(t.dir, tenantsGroup, e.Name()))
		}
	}
}

// Applied says what bounds the workers.
func (t *Tree) Applied() string {
	applied := "a group for each worker"
	for _, c := range controllers {
		if slices.Contains(t.has, c.name) {
			applied += ", " + c.file
		}
	}
	return applied
}

// Missing says what does not bound them, and why; "" where all does.
func (t *Tree) Missing() string { return strings.Join(t.lacking, "; ") }

// Group is the group of one worker.
type Group struct {
	tree *Tree
	dir  string
	ooms int64 // kills for want of memory before it was entered

	mu     sync.Mutex
	weight int  // cpu.weight, unless idle
	idle   bool // cpu.idle
}

// Make makes the group of a worker, or takes the one that is there, and bounds it.
func (t *Tree) Make(name string, l Limits) (*Group, error) {
	g := &Group{tree: t, dir: filepath.Join(t.dir, tenantsGroup, name)}
	if err := os.Mkdir(g.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the worker's group: %w", err)
	}
	err := g.SetCPUWeight(l.CPUWeight)
	if err == nil && slices.Contains(t.has, "pids") {
		err = g.set("pids.max", strconv.Itoa(l.PIDs))
	}
	if err == nil && slices.Contains(t.has, "memory") {
		err = g.set("memory.max", strconv.FormatInt(l.Memory, 10))
		// A kernel may be without swap.
		if swap := g.set("memory.swap.max", "0"); err == nil && !errors.Is(swap, fs.ErrNotExist) {
			err = swap
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bounding the worker's group: %w", err), g.Remove())
	}
	g.ooms = g.oomKills()
	return g, nil
}

func (g *Group) set(file, value string) error { return write(filepath.Join(g.dir, file), value) }

// Enter moves a process that exists into the group. What memory it has had by then
// stays its former group's. It takes the kernel some 10 ms, however many it moves at
// once.
func (g *Group) Enter(pid int) error {
	if err := g.set("cgroup.procs", strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("moving the worker into its group: %w", err)
	}
	return nil
}

// SetCPUWeight changes the weight against the other workers, at once; 0 is
// [DefaultWeight].
func (g *Group) SetCPUWeight(weight int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.weight = cmp.Or(weight, DefaultWeight)
	if !g.Weighs() || g.idle {
		return nil // the kernel refuses a weight to a group that is idle
	}
	return g.weigh()
}

func (g *Group) weigh() error { return g.set("cpu.weight", strconv.Itoa(g.weight)) }

// Weighs reports whether the group's share of the processors is its own.
func (g *Group) Weighs() bool { return slices.Contains(g.tree.has, "cpu") }

// SetIdle has the group's processes run only where no other worker wants to, or
// by their weight again. It takes Linux 5.15.
func (g *Group) SetIdle(idle bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.idle == idle {
		return nil
	}
	value := "0"
	if idle {
		value = "1"
	}
	if err := g.set("cpu.idle", value); err != nil {
		return fmt.Errorf("changing whether the worker's group is idle: %w", err)
	}
	if g.idle = idle; idle {
		return nil
	}
	return g.weigh() // the kernel has forgotten it
}

// OutOfMemory reports whether the kernel has killed a process of the group since
// it was made, since they needed more than memory.max.
func (g *Group) OutOfMemory() bool { return g.oomKills() > g.ooms }

func (g *Group) oomKills() int64 { return g.count("memory.events", "oom_kill") }

// Resident returns the memory of the group's processes in bytes, caches of files
// that they have not mapped left out; 0 where it is not known. The kernel may be
// some seconds behind.
func (g *Group) Resident() int64 {
	return g.count("memory.stat", "anon") + g.count("memory.stat", "file_mapped")
}

// count returns a number from a file of the kernel's, and 0 where it is not there.
func (g *Group) count(file, name string) int64 {
	data, _ := os.ReadFile(filepath.Join(g.dir, file))
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}

// Remove removes the group, in which there must be nobody.
func (g *Group) Remove() error {
	if err := os.Remove(g.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the worker's group: %w", err)
	}
	return nil
}

// ownGroup returns the directory of the cgroup v2 that a process is in, by its
// /proc/PID/cgroup and /proc/PID/mountinfo.
func ownGroup(cgroup, mountinfo string) (string, error) {
	group := ""
	for line := range strings.Lines(cgroup) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			group = path
		}
	}
	if group == "" {
		return "", errors.New("this system has cgroup v1 only")
	}
	for line := range strings.Lines(mountinfo) {
		// 41 31 0:38 ROOT MOUNTPOINT rw,relatime … - cgroup2 cgroup2 rw
		about, kind, ok := strings.Cut(line, " - ")
		fields := strings.Fields(about)
		if !ok || len(fields) < 5 || !strings.HasPrefix(kind, "cgroup2 ") {
			continue
		}
		// What the mount does not show is not to be had through it: a group
		// outside of the edge's namespace is /../…
		below, err := filepath.Rel(unescape(fields[3]), group)
		if err != nil || below == ".." || strings.HasPrefix(below, "../") || strings.HasPrefix(group, "/..") {
			continue
		}
		return filepath.Join(unescape(fields[4]), below), nil
	}
	return "", fmt.Errorf("no mount of cgroup v2 shows the edge's group %s", group)
}

// unescape undoes what mountinfo does to blanks and backslashes in paths.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
