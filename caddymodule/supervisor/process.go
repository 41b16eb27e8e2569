package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jonboulle/clockwork"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/cgroup"
	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/wire"
)

// maxSocketPath is the longest path that the kernel binds a socket to, which is
// 107 bytes on Linux; the last byte is a NUL.
const maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// maxReadyLine bounds what a worker may say on its ready pipe, in bytes.
const maxReadyLine = 2048

func socketPath(runDir, tenant string) string {
	return filepath.Join(runDir, tenant+".sock")
}

// process is a worker's process and our ends of its pipes.
type process struct {
	pid      int
	cmd      *exec.Cmd
	lifeline *os.File // write end; closing it tells the worker to drain
	closed   sync.Once
	ready    *os.File      // read end
	exited   chan struct{} // closed once it is reaped and its last line logged
	killed   atomic.Bool   // by us
	reaping  sync.Mutex    // see exclusively
	reaped   bool          // guarded by reaping
	group    *cgroup.Group // nil where it has none of its own
	oom      bool          // killed for want of memory; valid once exited is closed
	lastLine string        // the first line of its last words; valid once exited is closed
}

// spawn starts a worker with a new listening socket, for the data directory with
// the id owner, or any where that is "".
func spawn(cfg *Config, socket string, spec Spec, owner string, logger *zap.Logger) (_ *process, err error) {
	var theirs []*os.File // the worker's ends: listener, lifeline, ready, stderr
	p := &process{exited: make(chan struct{})}
	var stderr *os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			for _, f := range []*os.File{p.lifeline, p.ready, stderr} {
				f.Close() // of nil does nothing
			}
			if p.group != nil {
				p.group.Remove()
			}
			err = fmt.Errorf("starting the worker: %w", err)
		}
	}()

	listener, err := listen(socket)
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, listener)
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
	stderr, errs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, errs)

	memory := cfg.MemoryMB
	if spec.MemoryMB > 0 {
		memory = spec.MemoryMB
	}
	// A terminal's interrupt goes to the edge alone, which then drains.
	attr := &syscall.SysProcAttr{Setpgid: true}
	home, err := ownUser(cfg, spec, attr)
	if err != nil {
		return nil, err
	}
	start := "/"
	if home != nil {
		// Within a session every user may send SIGCONT to every other's processes.
		// Not for workers of one user: outside cgroups Linux shares the CPUs out
		// by session, and the edge would get no more than each worker.
		attr.Setpgid, attr.Setsid = false, true
		defer home.Close()
		start = directoryPath(home)
	}
	args := []string{filepath.Base(cfg.Worker), "serve", "-tenant", spec.Tenant, "-dir", spec.DataDir, "-memory", strconv.Itoa(memory)}
	if home != nil {
		args = append(args, "-at", ".", "-threads", strconv.Itoa(wire.MaxThreads))
	}
	if owner != "" {
		args = append(args, "-owner", owner)
	}
	if cfg.Sandbox != wire.SandboxDefault {
		args = append(args, "-sandbox", string(cfg.Sandbox))
	}
	p.cmd = &exec.Cmd{
		Path: cfg.Worker,
		Args: args,
		// The edge's environment may hold secrets, and a worker needs none.
		Env:         []string{},
		Dir:         start,
		Stderr:      errs,
		ExtraFiles:  []*os.File{listener, lifeline, ready}, // in the order of wire.FDListener and so on
		SysProcAttr: attr,
	}
	if cfg.Groups != nil {
		p.group, err = cfg.Groups.Make(spec.Tenant, cgroup.Limits{
			Memory: memoryMax(memory), CPUWeight: spec.CPUWeight, PIDs: wire.MaxThreads,
		})
		if err != nil {
			return nil, err
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := keepRights(); err != nil {
		return nil, err
	}
	if p.group != nil {
		err = p.group.Start(p.cmd)
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
		p.lastLine = relog(stderr, logger)
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
				logger.Error("the worker's group stays", zap.Error(err))
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

// ownUser has a worker run as its tenant's own user, if it is to, and returns the
// data directory, which is given to that. One that had a user of its own once is
// taken back where it is to have none.
func ownUser(cfg *Config, spec Spec, attr *syscall.SysProcAttr) (*os.File, error) {
	if cfg.UIDs == (owners.Range{}) {
		if !cfg.Owners.HasUID(spec.Tenant) {
			return nil, nil
		}
		if err := TakeBack(spec.DataDir); err != nil {
			return nil, err
		}
		return nil, cfg.Owners.DropUID(spec.Tenant)
	}
	uid, err := cfg.Owners.UID(spec.Tenant, cfg.UIDs)
	if err != nil {
		return nil, err
	}
	runAs(attr, uid)
	return give(spec.DataDir, int(uid), int(uid))
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

// listen makes the socket that a worker inherits. The edge keeps no handle of
// it: when the worker dies the kernel resets what waits in the backlog and
// refuses what comes later, at once, so that no request hangs there and a
// refused one is known to be unsent.
func listen(path string) (*os.File, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has %d bytes, and the kernel takes at most %d: choose a shorter run_dir", path, len(path), maxSocketPath)
	}
	// What is there is of a generation that is gone, or of an edge that was
	// killed.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}

// awaitReady returns the line that the worker writes on its ready pipe. An
// error that is not a missed deadline means that it wrote none.
func (p *process) awaitReady(timeout time.Duration) (string, error) {
	defer p.ready.Close()
	p.ready.SetReadDeadline(time.Now().Add(timeout))
	line, err := bufio.NewReader(io.LimitReader(p.ready, maxReadyLine)).ReadString('\n')
	line = strings.TrimSuffix(line, "\n")
	if line != "" && err == io.EOF {
		return line, nil // cut short
	}
	if err == io.EOF {
		return "", errors.New("it ended before it was ready")
	}
	return line, err
}

// resident returns the process's resident memory in bytes, or 0 where that is not
// known. ProtectProc= of systemd hides workers from the edge, whose user they may
// have, for nobody may debug them.
func (p *process) resident() int64 {
	bytes := residentBytes(p.pid)
	if bytes == 0 && p.group != nil {
		bytes = p.group.Resident()
	}
	return bytes
}

func (p *process) closeLifeline() {
	p.closed.Do(func() { p.lifeline.Close() })
}

// exclusively calls fn while the process's id cannot be another's: not at all once
// the process is reaped, nor where the kernel does not tell of its end before.
func (p *process) exclusively(fn func()) {
	if !p.reaping.TryLock() {
		return
	}
	defer p.reaping.Unlock()
	if !p.reaped {
		fn()
	}
}

// kill sends SIGKILL.
func (p *process) kill() {
	p.killed.Store(true)
	p.cmd.Process.Kill()
}

// endWithin tells the process to end, kills it if it does not in time, and
// returns once it is gone. It reports whether it had to kill.
func (p *process) endWithin(clock clockwork.Clock, timeout time.Duration) bool {
	p.closeLifeline()
	timer := clock.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.exited:
		return false
	case <-timer.Chan():
		p.kill()
		<-p.exited
		return true
	}
}

// exitReason classifies the end of a process that has exited.
func (p *process) exitReason() string {
	switch {
	case p.cmd.ProcessState != nil && p.cmd.ProcessState.Success():
		return exitDrained
	case p.killed.Load():
		return exitKilled
	case p.oom:
		return exitOOM
	default:
		return exitCrashed
	}
}

// obituary says how a process that has exited did so.
func (p *process) obituary() string {
	s := p.cmd.ProcessState.String()
	if p.oom {
		s += ": the kernel ended it, since it needed more memory than memory.max of its group, which follows memory_mb"
	}
	if p.lastLine != "" {
		s += ": " + p.lastLine
	}
	return s
}
