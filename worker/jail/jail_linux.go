package jail

import (
	"errors"
	"fmt"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/wire"
)

// Cell is the jail of this process while it is built.
type Cell struct {
	mode  wire.Sandbox
	parts []wire.SandboxPart
}

// part is one of the jail's.
type part struct {
	name  string
	apply func() (applied string, err error)
}

// Begin takes from the process what no worker needs, whosever it is going to be.
// There is no way back. A part that the kernel does not have is left out and named
// in what Enter returns; one that it has and that fails is an error, after which the
// process must end. So it is for Enter.
func Begin(mode wire.Sandbox) (*Cell, error) {
	c := &Cell{mode: mode}
	return c, c.build(part{"no_new_privs", noNewPrivileges}, part{"capabilities", dropCapabilities})
}

// Enter locks the process in with a data directory, and returns what is in force. If
// a part is missing under [wire.SandboxStrict], that is an error.
func (c *Cell) Enter(b Bounds) ([]wire.SandboxPart, error) {
	if err := forbidCore(); err != nil {
		return nil, err
	}
	if usesCgo && c.mode != wire.SandboxOff {
		// Calls for all threads are not to be had. They are made for this one, and
		// seccomp, which comes last, takes the others along as far as it can. Not
		// otherwise, since the runtime keeps one more thread from then on.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if _, err := noNewPrivileges(); err != nil { // of another thread, maybe, than Begin's
			return nil, err
		}
	}
	err := c.build(part{"limits", func() (string, error) { return limit(b) }},
		part{"landlock", func() (string, error) { return landlock(b.Dir) }}, part{"seccomp", filter})
	if err == nil && c.mode == wire.SandboxStrict {
		err = refuse(c.parts)
	}
	return c.parts, err
}

func (c *Cell) build(parts ...part) error {
	if c.mode == wire.SandboxOff {
		return nil
	}
	for _, p := range parts {
		applied, err := p.apply()
		part := wire.SandboxPart{Name: p.name, Applied: applied}
		var missing errMissing
		if errors.As(err, &missing) {
			part.Missing = string(missing)
		} else if err != nil {
			return fmt.Errorf("sandbox: %s: %w", p.name, err)
		}
		c.parts = append(c.parts, part)
	}
	return nil
}

// errMissing is what this machine does not have.
type errMissing string

func (e errMissing) Error() string { return string(e) }

// forbidCore sees to it that no core file and no debugger of the same user gets
// at the texts in memory.
func forbidCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setting RLIMIT_CORE to 0: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process non-dumpable: %w", err)
	}
	return nil
}

// allThreads makes a system call in every thread of the process. Its arguments
// may be pointers.
//
//go:uintptrescapes
func allThreads(call, a1, a2, a3 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(call, a1, a2, a3, 0, 0, 0)
	switch {
	case errno == syscall.ENOTSUP:
		return errMissing("the worker was built with cgo: build it with CGO_ENABLED=0")
	case errno != 0:
		return errno
	}
	return nil
}

// noNewPrivileges is also what lets an unprivileged process take the rest.
func noNewPrivileges() (string, error) {
	err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	var missing errMissing
	if errors.As(err, &missing) {
		// The others have it from seccomp.
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	return "all threads", err
}

// limit lowers the process's limits, so that nothing raises them again.
func limit(b Bounds) (string, error) {
	// A write beyond the limit is to fail, not to end the process.
	signal.Ignore(syscall.SIGXFSZ)
	type rlimit struct {
		name     string
		resource int
		value    uint64
	}
	limits := []rlimit{
		{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, MaxFiles},
		{"RLIMIT_FSIZE", unix.RLIMIT_FSIZE, MaxFileSize},
		{"RLIMIT_DATA", unix.RLIMIT_DATA, maxMemory() + 2*uint64(b.Memory)},
	}
	applied := "descriptors, file size, memory"
	if b.Threads > 0 {
		// It counts by user: among workers that share one, it would be theirs.
		limits = append(limits, rlimit{"RLIMIT_NPROC", unix.RLIMIT_NPROC, uint64(b.Threads)})
		applied += ", threads"
	}
	for _, l := range limits {
		if l.resource == unix.RLIMIT_DATA && usesCgo {
			continue // its shadow memory takes terabytes of addresses
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(l.resource, &now); err != nil {
			return "", fmt.Errorf("reading %s: %w", l.name, err)
		}
		value := min(l.value, now.Max)
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return "", fmt.Errorf("setting %s to %d: %w", l.name, value, err)
		}
	}
	return applied, nil
}

// maxMemory returns [MaxMemory], or half of the machine's memory if that is
// less, but enough for any worker.
func maxMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return MaxMemory
	}
	return max(MaxMemory/4, min(MaxMemory, uint64(info.Totalram)*uint64(info.Unit)/2))
}

// dropCapabilities gives up what a root worker, or the ambient capability of the
// edge's unit, has. What may be had again by executing a file stays: nothing can
// be executed.
func dropCapabilities() (string, error) {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	none := new([2]unix.CapUserData) // permitted, effective and inheritable; the ambient ones go with them
	if err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(none)), 0); err != nil {
		return "", err
	}
	return "none left", nil
}
