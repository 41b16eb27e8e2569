package supervisor

import (
	"os"

	"golang.org/x/sys/unix"
)

// awaitExit waits until the process has ended, which is then still to be reaped.
// Waiting for it by wait alone would take a thread of the edge for each worker.
// Where the kernel cannot do better it returns at once.
func awaitExit(pid int) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK) // Linux 5.10
	if err != nil {
		return
	}
	handle := os.NewFile(uintptr(fd), "pidfd") // with the runtime's poller, since it does not block
	defer handle.Close()
	conn, err := handle.SyscallConn()
	if err != nil {
		return
	}
	conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}
