package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/cgroup"
	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/wire"
)

// maxSocketPath is the longest path that the kernel binds a socket to, which is
// 107 bytes on Linux; the last byte is a NUL.
const maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// spawn starts a worker with a new listening socket, or takes one that was started
// ahead, for the data directory with the id owner, or any where that is "".
func (s *Supervisor) spawn(cfg *Config, as image, socket string, spec Spec, owner string, logger *zap.Logger) (p *process, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting the worker: %w", err)
		}
	}()
	if len(socket) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has %d bytes, and the kernel takes at most %d: choose a shorter run_dir", socket, len(socket), maxSocketPath)
	}
	if _, err := os.Stat(spec.DataDir); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the tenant's data directory %s is not there: mount its disk, or make the directory", spec.DataDir)
	}
	home, uid, err := ownUser(cfg, spec)
	if err != nil {
		return nil, err
	}
	defer home.Close() // of nil does nothing
	memory := cfg.MemoryMB
	if spec.MemoryMB > 0 {
		memory = spec.MemoryMB
	}
	line, err := wire.Assignment(arguments(spec, memory, owner, home != nil))
	if err != nil {
		return nil, err
	}
	group := func() (*cgroup.Group, error) {
		if cfg.Groups == nil {
			return nil, nil
		}
		return cfg.Groups.Make(spec.Tenant, cgroup.Limits{
			Memory: memoryMax(memory), CPUWeight: spec.CPUWeight, PIDs: wire.MaxThreads,
		})
	}
	g, err := group()
	if err != nil {
		return nil, err
	}
	if home == nil {
		if p := s.spares.take(as); p != nil {
			if err = p.enter(g); err == nil {
				err = p.assign(socket, line, cfg.StartTimeout, logger)
			}
			if err == nil {
				return p, nil
			}
			logger.Warn("the spare worker is of no use, and another process is started", zap.Error(err))
			p.abandon()
			if g, err = group(); err != nil { // which it may have taken with it
				return nil, err
			}
		}
	}
	if p, err = launch(as, home, uid, g, logger); err != nil {
		return nil, err
	}
	if err = p.assign(socket, line, cfg.StartTimeout, logger); err != nil {
		p.abandon()
		return nil, err
	}
	return p, nil
}

// arguments are what a worker is told once it has its tenant: the flags of the
// command serve.
func arguments(spec Spec, memory int, owner string, atHome bool) []string {
	args := []string{"-tenant", spec.Tenant, "-dir", spec.DataDir, "-memory", strconv.Itoa(memory)}
	if atHome {
		args = append(args, "-at", ".", "-threads", strconv.Itoa(wire.MaxThreads))
	}
	if owner != "" {
		args = append(args, "-owner", owner)
	}
	return args
}

// launch starts a process that waits to be assigned: in home as the user uid, or
// in the root directory as the edge's where that is nil, and in a group, or the
// edge's where that is nil. On error the group is gone.
func launch(as image, home *os.File, uid uint32, group *cgroup.Group, logger *zap.Logger) (_ *process, err error) {
	var theirs []*os.File // the worker's ends: lifeline, ready, stderr
	p := &process{exited: make(chan struct{}), group: group}
	p.logger.Store(logger)
	var stderr *os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			for _, f := range []*os.File{p.socket, p.lifeline, p.ready, stderr} {
				f.Close() // of nil does nothing
			}
			if group != nil {
				group.Remove()
			}
		}
	}()

	if p.socket, err = newSocket(); err != nil {
		return nil, err
	}
	lifeline, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	theirs, p.lifeline = append(theirs, lifeline), ours
	ours, ready, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	theirs, p.ready = append(theirs, ready), ours
	p.said = bufio.NewReader(io.LimitReader(p.ready, maxReadyLines))
	stderr, errs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, errs)

	// A terminal's interrupt goes to the edge alone, which then drains.
	attr, dir := &syscall.SysProcAttr{Setpgid: true}, "/"
	if home != nil {
		// Within a session every user may send SIGCONT to every other's processes.
		// Not for workers of one user: outside cgroups Linux shares the CPUs out
		// by session, and the edge would get no more than each worker.
		attr.Setpgid, attr.Setsid = false, true
		runAs(attr, uid)
		dir = directoryPath(home)
	}
	args := []string{filepath.Base(as.worker), wire.CommandStandby}
	if as.sandbox != wire.SandboxDefault {
		args = append(args, "-sandbox", string(as.sandbox))
	}
	p.cmd = &exec.Cmd{
		Path: as.worker,
		Args: args,
		// The edge's environment may hold secrets, and a worker needs none.
		Env:         []string{},
		Dir:         dir,
		Stderr:      errs,
		ExtraFiles:  []*os.File{p.socket, lifeline, ready}, // in the order of wire.FDListener and so on
		SysProcAttr: attr,
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := keepRights(); err != nil {
		return nil, err
	}
	if group != nil {
		err = group.Start(p.cmd)
	} else {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	p.pid = p.cmd.Process.Pid
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		p.lastLine = relog(stderr, &p.logger)
	}()
	go func() {
		awaitExit(p.pid)
		p.reaping.Lock()
		p.cmd.Wait() // the outcome is in cmd.ProcessState
		p.reaped = true
		p.reaping.Unlock()
		if p.group != nil {
			p.oom = p.group.OutOfMemory()
			if err := p.group.Remove(); err != nil {
				p.logger.Load().Error("the worker's group stays", zap.Error(err))
			}
		}
		// All it wrote is in the pipe. A stray child of its own that holds the
		// other end must not hold us up.
		stderr.SetReadDeadline(time.Now().Add(time.Second))
		<-logged
		stderr.Close()
		close(p.exited)
	}()
	return p, nil
}

// ownUser returns the user that a worker is to run as, if it is to have one of its
// own, and the data directory, which is given to that. One that had a user of its
// own once is taken back where it is to have none.
func ownUser(cfg *Config, spec Spec) (home *os.File, uid uint32, err error) {
	if cfg.UIDs == (owners.Range{}) {
		if !cfg.Owners.HasUID(spec.Tenant) {
			return nil, 0, nil
		}
		if err := TakeBack(spec.DataDir); err != nil {
			return nil, 0, err
		}
		return nil, 0, cfg.Owners.DropUID(spec.Tenant)
	}
	if uid, err = cfg.Owners.UID(spec.Tenant, cfg.UIDs); err != nil {
		return nil, 0, err
	}
	home, err = give(spec.DataDir, int(uid), int(uid))
	return home, uid, err
}

// TakeBack makes a data directory that was a worker's own user's the edge's. No
// worker may have it open.
func TakeBack(dir string) error {
	home, err := give(dir, os.Geteuid(), os.Getegid())
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: it had a user of its own; let the edge keep CAP_CHOWN, or have root run chown -R %d:%d %s", err, os.Geteuid(), os.Getegid(), dir)
	}
	if err != nil {
		return err
	}
	return home.Close()
}

// newSocket makes the socket that a worker inherits, which is nowhere yet.
func newSocket() (*os.File, error) {
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("making the worker's socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// listen has a socket listen at path, for all processes that have it.
func listen(socket *os.File, path string) error {
	// What is there is of a generation that is gone, or of an edge that was
	// killed.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fd := int(socket.Fd())
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		return &os.PathError{Op: "bind", Path: path, Err: err}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	// The kernel takes what it allows of the backlog.
	if err := syscall.Listen(fd, math.MaxInt32); err != nil {
		return &os.PathError{Op: "listen", Path: path, Err: err}
	}
	return nil
}
