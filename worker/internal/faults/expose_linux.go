package faults

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// environment names the descriptor of the socket to the injector.
const environment = "SQ_TEST_FAULTS"

// calls are those that an injector can let fail.
var calls = map[int32]string{
	unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite",
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_SYNC_FILE_RANGE: "sync_file_range",
	unix.SYS_FALLOCATE: "fallocate", unix.SYS_FTRUNCATE: "ftruncate",
	unix.SYS_OPENAT: "openat", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_RENAMEAT: "renameat", unix.SYS_UNLINKAT: "unlinkat",
	unix.SYS_NEWFSTATAT: "fstatat", unix.SYS_FSTAT: "fstat", unix.SYS_GETDENTS64: "getdents",
	unix.SYS_READ: "read", unix.SYS_PREAD64: "pread", unix.SYS_MMAP: "mmap", unix.SYS_FLOCK: "flock",
}

// byName are those with a folder and a name for a descriptor.
var byName = map[string]bool{"openat": true, "mkdirat": true, "renameat": true, "unlinkat": true, "fstatat": true}

// Calls returns the names of the calls that can fail, sorted. A renameat counts
// for the folder that it moves from.
func Calls() []string { return slices.Sorted(maps.Values(calls)) }

// Expose puts the process at the disposal of the injector that started it. It
// does nothing in a process that none did.
func Expose() {
	fd, err := strconv.Atoi(os.Getenv(environment))
	if err != nil {
		return
	}
	os.Unsetenv(environment)
	if err := expose(fd); err != nil {
		fmt.Fprintln(os.Stderr, "expose the process to faults:", err)
		os.Exit(1)
	}
}

func expose(socket int) error {
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}}
	jump := func(k uint32, equal, other int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(equal), Jf: uint8(other), K: k}
	}
	// The runtime maps memory all the time, without a file: fd -1.
	const mapped = uint32(unsafe.Offsetof(notification{}.args) - unsafe.Offsetof(notification{}.nr) + 4*8)
	filter = append(filter,
		jump(unix.SYS_MMAP, 0, 2),
		unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: mapped},
		jump(^uint32(0), len(calls)-1, len(calls)))
	rest := 0
	for nr := range calls {
		if nr == unix.SYS_MMAP {
			continue
		}
		rest++
		filter = append(filter, jump(uint32(nr), len(calls)-rest, 0))
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})

	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// A signal, of which the runtime sends many, must not take back a call
	// that the injector has counted.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC |
		unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("install the filter: %w", errno)
	}
	err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(int(listener)), nil, 0)
	return errors.Join(err, unix.Close(int(listener)), unix.Close(socket))
}

// notification is the kernel's struct seccomp_notif.
type notification struct {
	id   uint64
	pid  uint32
	_    uint32 // flags
	nr   int32  // from here on, what a filter sees
	_    uint32 // architecture
	_    uint64 // instruction pointer
	args [6]uint64
}

// response is the kernel's struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

func ioctl[T notification | response](fd int, request uintptr, arg *T) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}
