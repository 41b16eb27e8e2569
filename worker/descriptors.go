package main

import (
	"bufio"
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
	listener net.Listener
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
		{wire.FDListener, unix.S_IFSOCK, "listening socket"},
		{wire.FDLifeline, unix.S_IFIFO, "lifeline pipe"},
		{wire.FDReady, unix.S_IFIFO, "ready pipe"},
	} {
		// Looked at before any file is made of it: the descriptor may be the
		// Go runtime's own, which a finalizer would then close.
		var st unix.Stat_t
		if err := unix.Fstat(want.fd, &st); err != nil || uint32(st.Mode)&unix.S_IFMT != want.mode {
			return nil, fmt.Errorf("the edge starts this command, but descriptor %d is not the %s that it hands over; by hand, add -listen SOCKET", want.fd, want.what)
		}
		unix.CloseOnExec(want.fd)
	}
	f := os.NewFile(wire.FDListener, "listener")
	defer f.Close() // net.FileListener makes a copy
	listener, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d cannot be listened on: %w", wire.FDListener, err)
	}
	// Waiting for the lifeline's end must not hold a thread.
	if err := syscall.SetNonblock(wire.FDLifeline, true); err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", wire.FDLifeline, err)
	}
	return &edge{
		listener: listener,
		lifeline: os.NewFile(wire.FDLifeline, "lifeline"),
		ready:    os.NewFile(wire.FDReady, "ready"),
	}, nil
}

// byHand makes the socket at path, for a worker without an edge.
func byHand(path string) (*edge, error) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w (remove the socket if it is left from before)", err)
	}
	return &edge{listener: listener}, nil
}

// tell writes the one line that the edge waits for: [wire.Ready] or the reason
// why there will be no service. An edge that is gone shows at the lifeline.
func (e *edge) tell(line string) {
	if e.ready == nil {
		return
	}
	w := bufio.NewWriter(e.ready)
	fmt.Fprintln(w, strings.ReplaceAll(line, "\n", "; "))
	w.Flush()
	e.ready.Close()
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
