package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A thread of the edge for each worker would be thousands, and Go ends none.
func TestWorkersTakeNoThreadsOfTheEdge(t *testing.T) {
	if fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK); err != nil {
		t.Skipf("skipped: it needs Linux 5.10: %v", err)
	} else {
		unix.Close(fd)
	}
	s, _ := mustNew(t, Config{})
	waiting := func() (n int) {
		threads, err := filepath.Glob("/proc/self/task/*/syscall")
		if err != nil || len(threads) == 0 {
			t.Fatalf("%d threads, %v", len(threads), err)
		}
		for _, path := range threads {
			call, _ := os.ReadFile(path) // it may have ended meanwhile
			if bytes.HasPrefix(call, fmt.Appendf(nil, "%d ", unix.SYS_WAITID)) || bytes.HasPrefix(call, fmt.Appendf(nil, "%d ", unix.SYS_WAIT4)) {
				n++
			}
		}
		return n
	}
	const workers = 4
	for i := range workers {
		mustGet(t, s, mustSpec(t, fmt.Sprint("t", i)), "/who")
	}
	if n := waiting(); n > 0 {
		t.Errorf("%d threads wait for the end of %d workers, want none", n, workers)
	}
	// It is noticed all the same.
	pid := s.Status("t0").PID
	mustKill(t, pid, syscall.SIGKILL)
	waitFor(t, "the death to be noticed", func() bool { return s.Status("t0").PID != pid })
}
