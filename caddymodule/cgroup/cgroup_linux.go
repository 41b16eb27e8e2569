package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
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

// Start starts cmd in the group.
//
// Where a seccomp filter keeps clone3 from the edge, as RestrictNamespaces= of
// systemd and the profiles of containers do, the process is moved there as soon as
// it exists. What little memory it has had by then stays the edge's, and it takes
// the kernel some milliseconds.
func (g *Group) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	if StartsInside() {
		dir, err := os.Open(g.dir)
		if err != nil {
			return fmt.Errorf("opening the worker's group: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		return cmd.Start()
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := g.Enter(cmd.Process.Pid); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return err
	}
	return nil
}

// StartsInside reports whether what [Group.Start] starts begins in its group, since
// this process may use clone3. Otherwise, and by [Group.Enter], it is moved there.
var StartsInside = sync.OnceValue(func() bool {
	// Without arguments it does nothing but say so.
	_, _, errno := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0)
	return errno == unix.EINVAL
})
