package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/wire"
)

// edge is the worker's side of what it has in common with the process that
// started it. By hand, both pipes are nil.
type edge struct {
	listener net.Listener // nil until it is assigned
	lifeline *os.File
	ready    *os.File
}

// inherit takes over the descriptors that the edge hands to a worker.
func inherit() (*edge, error) {
	for _, want := range []struct {
		fd   int
		mode uint32
		what string
	}{
		{wire.FDListener, unix.S_IFSOCK, "socket"},
		{wire.FDLifeline, unix.S_IFIFO, "lifeline pipe"},
		{wire.FDReady, unix.S_IFIFO, "ready pipe"},
	} {
		// Looked at before any file is made of it: the descriptor may be the
		// Go runtime's own, which a finalizer would then close.
		var st unix.Stat_t
		if err := unix.Fstat(want.fd, &st); err != nil || uint32(st.Mode)&unix.S_IFMT != want.mode {
			return nil, fmt.Errorf("the edge starts this command, but descriptor %d is not the %s that it hands over; by hand, it is sq-worker serve -listen SOCKET", want.fd, want.what)
		}
		unix.CloseOnExec(want.fd)
	}
	// Waiting for the lifeline's end must not hold a thread.
	if err := syscall.SetNonblock(wire.FDLifeline, true); err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", wire.FDLifeline, err)
	}
	return &edge{
		lifeline: os.NewFile(wire.FDLifeline, "lifeline"),
		ready:    os.NewFile(wire.FDReady, "ready"),
	}, nil
}

// assigned waits for the tenant's flags, and takes over the socket, which listens by
// then. The error is io.EOF where there will be none.
func (e *edge) assigned() ([]string, error) {
	e.say(wire.StandingBy)
	flags, err := wire.ReadAssignment(e.lifeline)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(wire.FDListener, "listener")
	defer f.Close() // net.FileListener makes a copy
	if e.listener, err = net.FileListener(f); err != nil {
		return nil, fmt.Errorf("descriptor %d cannot be listened on: %w", wire.FDListener, err)
	}
	return flags, nil
}

// say writes a line for the edge. One that is gone shows at the lifeline.
func (e *edge) say(line string) {
	if e.ready != nil {
		e.ready.WriteString(strings.ReplaceAll(line, "\n", "; ") + "\n")
	}
}

// tell says the last thing that the edge waits for: [wire.Ready], or the reason why
// there will be no service.
func (e *edge) tell(line string) {
	e.say(line)
	e.ready.Close() // of nil does nothing
}

// gone returns a channel that is closed when the edge has closed the lifeline
// or is no more; by hand, that is never.
func (e *edge) gone() <-chan struct{} {
	gone := make(chan struct{})
	if e.lifeline != nil {
		go func() {
			defer close(gone)
			var b [1]byte
			for {
				if _, err := e.lifeline.Read(b[:]); err != nil {
					return
				}
			}
		}()
	}
	return gone
}
