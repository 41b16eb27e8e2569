package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/cgroup"
	"github.com/sqedge/sqedge/shared/wire"
)

// maxReadyLines bounds what a worker may say on its ready pipe, in bytes.
const maxReadyLines = 2048

func socketPath(runDir, tenant string) string {
	return filepath.Join(runDir, tenant+".sock")
}

// process is a worker's process and our ends of its pipes.
type process struct {
	pid      int
	cmd      *exec.Cmd
	socket   *os.File // that it has, too; nil once it is assigned
	lifeline *os.File // write end; closing it tells the worker to drain
	closed   sync.Once
	ready    *os.File // read end
	said     *bufio.Reader
	logger   atomic.Pointer[zap.Logger] // of its tenant, once it is assigned
	exited   chan struct{}              // closed once it is reaped and its last line logged
	killed   atomic.Bool                // by us
	reaping  sync.Mutex                 // see exclusively
	reaped   bool                       // guarded by reaping
	group    *cgroup.Group              // nil where it has none of its own
	oom      bool                       // killed for want of memory; valid once exited is closed
	lastLine string                     // the first line of its last words; valid once exited is closed
}

// enter moves the process into a group, unless that is nil.
func (p *process) enter(group *cgroup.Group) error {
	if group == nil {
		return nil
	}
	err := errors.New("it has ended")
	p.exclusively(func() {
		p.group = group
		err = group.Enter(p.pid)
	})
	return err
}

// assign has the process listen at path, and tells it in a line what to serve. The
// edge keeps no handle of the socket: when the worker dies the kernel resets what
// waits in the backlog and refuses what comes later, at once, so that no request
// hangs there and a refused one is known to be unsent.
func (p *process) assign(path string, line []byte, timeout time.Duration, logger *zap.Logger) error {
	p.logger.Store(logger)
	err := listen(p.socket, path)
	p.socket.Close()
	p.socket = nil
	if err != nil {
		return err
	}
	// It fits into any pipe, but one that is stopped may not read a long one.
	p.lifeline.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := p.lifeline.Write(line); err != nil {
		return fmt.Errorf("giving it its tenant: %w", err)
	}
	return nil
}

// abandon ends a process that serves nobody, and returns once it is gone.
func (p *process) abandon() {
	p.kill()
	<-p.exited
	p.release()
}

// release closes what is ours of a process that is gone.
func (p *process) release() {
	p.closeLifeline()
	p.ready.Close()
	p.socket.Close() // of nil does nothing
}

// awaitStandby waits until the process waits to be assigned.
func (p *process) awaitStandby(timeout time.Duration) error {
	line, err := p.nextLine(timeout)
	if err == nil && line != wire.StandingBy {
		err = errors.New(line)
	}
	return err
}

// awaitReady returns what the worker says on its ready pipe once it has its tenant.
// An error that is not a missed deadline means that it said nothing.
func (p *process) awaitReady(timeout time.Duration) (string, error) {
	defer p.ready.Close()
	line, err := p.nextLine(timeout)
	if err == nil && line == wire.StandingBy {
		line, err = p.nextLine(timeout)
	}
	return line, err
}

func (p *process) nextLine(timeout time.Duration) (string, error) {
	p.ready.SetReadDeadline(time.Now().Add(timeout))
	line, err := p.said.ReadString('\n')
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
