//go:build amd64 || arm64

package jail

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter is written out here, some sixty lines, since a library's tables of
// all calls of all processors take longer at a worker's start, and more of its
// memory, than the whole jail.

// allowed are the calls that a worker may make with any arguments: what serving
// takes, observed in runs with much load, drains, checkpoints and crashes, and
// what the Go runtime takes on other kernels and processors. None of them makes
// a descriptor to anything outside the data directory, which is Landlock's to
// guard, or acts on another process.
var allowed = append([]uint32{
	// Files, by descriptor or beneath one.
	unix.SYS_OPENAT, unix.SYS_CLOSE, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64,
	unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_LSEEK, unix.SYS_GETDENTS64,
	unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_MKDIRAT, unix.SYS_RENAMEAT, unix.SYS_UNLINKAT,
	unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE,
	unix.SYS_COPY_FILE_RANGE, unix.SYS_FADVISE64, unix.SYS_FLOCK,
	// Connections that the edge makes to the inherited socket.
	unix.SYS_ACCEPT4, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SHUTDOWN,
	// Waiting for them.
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
	// Memory; see also conditional.
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE,
	// Threads, clocks and signals; see also conditional.
	unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETPID, unix.SYS_GETTID,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_RESTART_SYSCALL, unix.SYS_RT_SIGACTION,
	unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_GETRANDOM, unix.SYS_UNAME,
}, cgoCalls...)

// condition holds if an argument has these bits under the mask. Only the lower
// half of an argument is looked at, which is all that the kernel reads of them.
type condition struct{ argument, mask, bits uint32 }

// allowance is a call that is allowed where all conditions hold.
type allowance struct {
	call uint32
	when []condition
}

// namespaces are the flags of clone that no thread of a worker has.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_PTRACE | unix.CLONE_VFORK

const all = 0xffffffff

// conditional lists the calls that depend on their arguments.
func conditional() []allowance {
	self := uint32(os.Getpid())
	rules := []allowance{
		// Memory that is never executable, and shared only to read a file.
		{unix.SYS_MMAP, []condition{{2, unix.PROT_EXEC, 0}, {3, unix.MAP_TYPE, unix.MAP_PRIVATE}}},
		{unix.SYS_MMAP, []condition{{2, all, unix.PROT_READ}, {3, all, unix.MAP_SHARED}}},
		{unix.SYS_MMAP, []condition{{2, unix.PROT_EXEC, 0}, {3, all, unix.MAP_DROPPABLE | unix.MAP_ANONYMOUS}}}, // random numbers without a call
		// Threads, and no process.
		{unix.SYS_CLONE, []condition{{0, unix.CLONE_THREAD | namespaces, unix.CLONE_THREAD}}},
		// Signals to itself, by which the runtime preempts and crashes.
		{unix.SYS_TGKILL, []condition{{0, all, self}}},
		{unix.SYS_KILL, []condition{{0, all, self}}},
		// The runtime names its mappings.
		{unix.SYS_PRCTL, []condition{{0, all, unix.PR_SET_VMA}}},
	}
	// F_SETOWN would have the kernel send signals.
	for _, command := range []uint32{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD_CLOEXEC} {
		rules = append(rules, allowance{unix.SYS_FCNTL, []condition{{1, all, command}}})
	}
	return append(rules, conditionalHere...)
}

// Offsets in the kernel's struct seccomp_data, on little-endian processors.
const (
	offsetCall      = 0
	offsetArch      = 4
	offsetArguments = 16
)

// assemble returns the filter's program. A call that is not allowed fails with
// EPERM rather than killing the process: if a later kernel or a rare path makes
// the runtime try something new, a tenant loses one operation and not its
// worker, and hostile code gains nothing from being told no.
func assemble() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	// unless goes on where the accumulator is value, and skips instructions where not.
	unless := func(value uint32, skip int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(skip), K: value}
	}
	ret := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	deny := ret(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	// Calls of another architecture, such as 32-bit ones, have other numbers.
	// Those of x32 have numbers that are not in the list.
	program := append(make([]unix.SockFilter, 0, 256),
		load(offsetArch),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: auditArch},
		deny,
		load(offsetCall),
	)
	for _, call := range allowed {
		program = append(program, unless(call, 1), ret(unix.SECCOMP_RET_ALLOW))
	}
	// Its flags are in memory, where a filter cannot look. The C library takes
	// this error as a reason to use clone.
	program = append(program, unless(unix.SYS_CLONE3, 1), ret(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	for _, rule := range conditional() {
		program = append(program, load(offsetCall), unless(rule.call, 3*len(rule.when)+1))
		for i, c := range rule.when {
			program = append(program, load(offsetArguments+8*c.argument),
				unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask},
				unless(c.bits, 3*(len(rule.when)-1-i)+1))
		}
		program = append(program, ret(unix.SECCOMP_RET_ALLOW))
	}
	return append(program, deny)
}

// filter installs the program for all threads. What it denies is logged by the
// kernel's audit, where that is on.
func filter() (string, error) {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))); errno != 0 {
		return "", errMissing("the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER, Linux 4.14)")
	}
	instructions := assemble()
	program := unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return "", errno
	case thread != 0:
		return "", fmt.Errorf("thread %d could not be taken along", thread)
	}
	return fmt.Sprintf("%d calls allowed", len(allowed)), nil
}
