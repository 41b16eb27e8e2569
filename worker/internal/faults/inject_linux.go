// Package faults makes system calls of a process fail, for tests: the n-th
// fdatasync of a file below a folder, say, with an error of the test's choice.
//
// The kernel asks for each call (seccomp's user notification), so the process is
// the real one, unchanged, and nothing that it does to its files can pass by
// unseen: not what the Go library repeats by itself, and not a call that nobody
// thought of.
package faults

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Fault says what goes wrong. The zero value lets all go well.
type Fault struct {
	Call  string // one of Calls
	Nth   int    // of these calls of the process below the folder; from 1 on
	Errno unix.Errno
	Mode  Mode
}

// Mode says how the call fails.
type Mode int

// The ways in which a call fails. All but Once need a write or a sync.
const (
	Once  Mode = iota // the call does nothing
	Ever              // and neither do those that follow it
	Short             // a write writes half; with an Errno, the next write fails with it
	Lost              // a sync fails and what was written since the last one is undone
)

func (f Fault) String() string {
	mode := [...]string{"", ", and all after it", ", after half of it", ", and the data is lost"}[f.Mode]
	errno := "no error"
	if f.Errno != 0 {
		errno = unix.ErrnoName(f.Errno)
	}
	return fmt.Sprintf("%s on %s %d%s", errno, f.Call, f.Nth, mode)
}

// Injector decides about the calls of one process.
type Injector struct {
	Cmd *exec.Cmd

	listener int
	pidfd    int
	memory   *os.File

	mu       sync.Mutex
	dir      string
	fault    Fault
	counts   map[string]int
	hits     int
	short    bool // the next write fails
	failed   map[string]bool
	repeated []string
	undo     map[string][]undo
}

// undo is what a write has overwritten.
type undo struct {
	at  int64
	old []byte
}

// Start starts cmd, whose program must call [Expose] first thing.
func Start(cmd *exec.Cmd) (*Injector, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "faults"), os.NewFile(uintptr(pair[1]), "faults")
	defer mine.Close()
	defer theirs.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	cmd.Env = append(cmd.Environ(), environment+"="+strconv.Itoa(2+len(cmd.ExtraFiles)))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	theirs.Close()
	in := &Injector{Cmd: cmd}
	if err := in.attach(int(mine.Fd())); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, fmt.Errorf("watch the calls of %s: %w", filepath.Base(cmd.Path), err)
	}
	go in.watch()
	return in, nil
}

func (in *Injector) attach(socket int) (err error) {
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return errors.Join(err, errors.New("no listener came: does the program call Expose?"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	in.listener = fds[0]
	if in.pidfd, err = unix.PidfdOpen(in.Cmd.Process.Pid, 0); err != nil {
		return err
	}
	in.memory, err = os.Open(fmt.Sprintf("/proc/%d/mem", in.Cmd.Process.Pid))
	return err
}

// Arm begins to count the calls on files below dir anew, with a fault to come.
func (in *Injector) Arm(dir string, f Fault) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.dir, in.fault, in.hits, in.short, in.repeated = dir, f, 0, false, nil
	in.counts, in.failed, in.undo = make(map[string]int), make(map[string]bool), make(map[string][]undo)
}

// Report is what was seen since Arm.
type Report struct {
	Counts map[string]int // calls below the folder
	Hits   int            // calls that failed

	// Repeated names the files that were synced after a sync of them had
	// failed, other than with EINTR.
	Repeated []string
}

// Hits returns how many calls have failed since Arm.
func (in *Injector) Hits() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.hits
}

// Disarm lets all calls through from now on.
func (in *Injector) Disarm() Report {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fault, in.short = Fault{}, false
	return Report{in.counts, in.hits, in.repeated}
}

// watch answers the kernel until the process ends.
func (in *Injector) watch() {
	defer in.memory.Close()
	defer unix.Close(in.pidfd)
	defer unix.Close(in.listener)
	for {
		poll := []unix.PollFd{{Fd: int32(in.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		} else if err != nil || poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n notification
		if err := ioctl(in.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, &n); err != nil {
			continue // a signal took it back
		}
		r := in.decide(&n)
		ioctl(in.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, &r)
	}
}

func (in *Injector) decide(n *notification) response {
	in.mu.Lock()
	defer in.mu.Unlock()
	pass := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	call := calls[n.nr]
	path := in.path(n)
	if in.dir == "" || path != in.dir && !strings.HasPrefix(path, in.dir+"/") {
		return pass
	}
	in.counts[call]++
	f := in.fault
	write := call == "write" || call == "pwrite"
	hit := f.Call == call && (in.counts[call] == f.Nth || f.Mode == Ever && in.counts[call] > f.Nth && f.Nth > 0)
	if write && in.short {
		in.short, hit, f.Mode = false, true, Once
	}
	in.audit(call, path, n, hit && f.Errno != unix.EINTR && f.Errno != 0)
	if !hit {
		return pass
	}
	in.hits++
	if f.Mode == Short {
		in.short = f.Errno != 0
		written, err := in.half(n)
		if err != nil {
			panic(err) // of the test's own making
		}
		return response{id: n.id, val: int64(written)}
	}
	return response{id: n.id, err: -int32(f.Errno)}
}

// audit notes syncs that fail, and those that should not be, and loses what
// Lost says.
func (in *Injector) audit(call, path string, n *notification, failing bool) {
	switch call {
	case "write", "pwrite":
		if in.fault.Mode == Lost {
			in.remember(call, path, n)
		}
	case "fsync", "fdatasync", "sync_file_range":
		if in.failed[path] {
			in.repeated = append(in.repeated, path)
		}
		if failing {
			in.failed[path] = true
		}
		if failing && in.fault.Mode == Lost {
			for _, u := range in.undo[path] {
				f, err := os.OpenFile(path, os.O_WRONLY, 0)
				if err == nil {
					f.WriteAt(u.old, u.at)
					f.Close()
				}
			}
		}
		delete(in.undo, path)
	}
}

// remember keeps what a write is about to overwrite: zeros where that is beyond
// the file's end, which is where a write without an offset goes.
func (in *Injector) remember(call, path string, n *notification) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	u := undo{int64(n.args[3]), make([]byte, n.args[2])}
	if call == "pwrite" {
		f.ReadAt(u.old, u.at)
	} else if info, err := f.Stat(); err == nil {
		u.at = info.Size()
	}
	in.undo[path] = append([]undo{u}, in.undo[path]...)
}

// half carries out half of a write.
func (in *Injector) half(n *notification) (int, error) {
	fd, err := unix.PidfdGetfd(in.pidfd, int(n.args[0]), 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	data := make([]byte, (n.args[2]+1)/2)
	if _, err := in.memory.ReadAt(data, int64(n.args[1])); err != nil {
		return 0, err
	}
	if calls[n.nr] == "pwrite" {
		return unix.Pwrite(fd, data, int64(n.args[3]))
	}
	return unix.Write(fd, data)
}

// path returns the file that a call is about, empty where it has no name.
func (in *Injector) path(n *notification) string {
	fd := int32(n.args[0])
	if calls[n.nr] == "mmap" {
		fd = int32(n.args[4])
	}
	dir := ""
	if fd != unix.AT_FDCWD {
		dir, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, fd))
	}
	if !byName[calls[n.nr]] {
		return dir
	}
	name := make([]byte, 4096)
	read, _ := in.memory.ReadAt(name, int64(n.args[1])) // up to where the memory ends
	text, _, ok := bytes.Cut(name[:read], []byte{0})
	if !ok {
		return ""
	}
	if filepath.IsAbs(string(text)) {
		return string(text)
	}
	return filepath.Join(dir, string(text))
}

// Wait waits for the process, which is killed after a time that no test takes.
func (in *Injector) Wait() error {
	late := time.AfterFunc(time.Minute, func() { in.Cmd.Process.Kill() })
	defer late.Stop()
	return in.Cmd.Wait()
}
