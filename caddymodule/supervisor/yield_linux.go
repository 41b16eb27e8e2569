package supervisor

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// processorTime returns what all threads of a process have used of the processors
// since it began, or 0 if that is not to be had.
func processorTime(pid int) time.Duration {
	var spent unix.Timespec
	// The number that clock_getcpuclockid(3) gives the clock.
	if err := unix.ClockGettime(int32(^pid<<3|2), &spent); err != nil {
		return 0
	}
	return time.Duration(spent.Nano())
}

// setIdlePolicy puts all threads of a process under SCHED_IDLE, or back, and reports
// whether any was not there: one of those may have made another meanwhile, which is
// as its maker was.
func setIdlePolicy(pid int, idle bool) (changed bool, err error) {
	threads, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		return false, err
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return changed, err
		}
		did, err := setThreadIdle(tid, idle)
		if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
			return changed, err
		}
		changed = changed || did
	}
	return changed, nil
}

// setThreadIdle is setIdlePolicy for one thread, of which 0 is the caller's. Its
// niceness stays.
func setThreadIdle(tid int, idle bool) (changed bool, err error) {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return false, fmt.Errorf("reading a worker's scheduling policy: %w", err)
	}
	policy := uint32(unix.SCHED_NORMAL)
	if idle {
		policy = unix.SCHED_IDLE
	}
	if attr.Policy == policy {
		return false, nil
	}
	attr.Policy = policy
	if err := unix.SchedSetAttr(tid, attr, 0); err != nil {
		return false, fmt.Errorf("changing a worker's scheduling policy: %w", err)
	}
	return true, nil
}

// mayReturn says why a thread that is put under SCHED_IDLE could not be put back:
// without cgroups that takes a right.
var mayReturn = sync.OnceValue(func() error {
	tried := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		_, err := setThreadIdle(0, true)
		if err == nil {
			_, err = setThreadIdle(0, false)
		}
		tried <- err
	}()
	if err := <-tried; err != nil {
		return fmt.Errorf("%w: delegate the cgroup controller cpu to the edge, or give it CAP_SYS_NICE or LimitNICE=+0", err)
	}
	return nil
})
