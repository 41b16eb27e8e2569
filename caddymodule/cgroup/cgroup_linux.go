package cgroup

import (
	"fmt"
	"os"
	"syscall"
)

// Open arranges the group that was delegated to this process. The error says why
// there is none.
func Open() (*Tree, error) {
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	dir, err := ownGroup(string(group), string(mounts))
	if err != nil {
		return nil, err
	}
	return arrange(dir, os.Getpid())
}

// Place has a process begin its life in the group. What it returns is to be
// called once the process is there.
func (g *Group) Place(attr *syscall.SysProcAttr) (done func(), err error) {
	dir, err := os.Open(g.dir)
	if err != nil {
		return nil, fmt.Errorf("opening the worker's group: %w", err)
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	return func() { dir.Close() }, nil
}
