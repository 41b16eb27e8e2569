package main

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call makes a system call that must not work; what it returns is closed.
func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	return nil
}

// descriptor is as call, for a call that makes a descriptor.
func descriptor(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	fd, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

// page returns a page of memory to call mprotect for.
func page() ([]byte, error) {
	return unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}

// pidfd returns a descriptor of the victim, or an error.
func pidfd(t targets) (int, error) { return unix.PidfdOpen(t.Victim, 0) }

var kernel = []attempt{
	{"process", "fork", func(targets) error {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if pid == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		_, err := unix.Wait4(int(pid), nil, 0, nil)
		return err
	}},
	{"process", "fork by clone3", func(targets) error {
		args := struct{ flags, pidfd, childTID, parentTID, exitSignal, stack, size, tls uint64 }{exitSignal: uint64(unix.SIGCHLD)}
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		if errno != 0 {
			return errno
		}
		if pid == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		_, err := unix.Wait4(int(pid), nil, 0, nil)
		return err
	}},
	{"process", "start a program", func(targets) error {
		p, err := os.StartProcess("/bin/true", []string{"true"}, new(os.ProcAttr))
		if err != nil {
			return err
		}
		_, err = p.Wait()
		return err
	}},
	{"process", "become another program", func(t targets) error {
		// One that is not there would be found missing, had it been looked for.
		err := unix.Exec(t.own("no-such-program"), []string{"x"}, nil)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}},
	{"process", "signal another", func(t targets) error { return unix.Kill(t.Victim, unix.SIGCONT) }},
	{"process", "signal its thread", func(t targets) error { return unix.Tgkill(t.Victim, t.Victim, unix.SIGCONT) }},
	{"process", "signal everybody of its group", func(targets) error { return unix.Kill(0, 0) }},
	{"process", "queue a signal", func(t targets) error {
		info := [128]byte{0: byte(unix.SIGCONT), 8: 0xff, 9: 0xff, 10: 0xff, 11: 0xff} // si_code SI_QUEUE
		return call(unix.SYS_RT_SIGQUEUEINFO, uintptr(t.Victim), uintptr(unix.SIGCONT), uintptr(unsafe.Pointer(&info)))
	}},
	{"process", "have the kernel signal another", func(t targets) error {
		return call(unix.SYS_FCNTL, 2, unix.F_SETOWN, uintptr(t.Victim))
	}},
	{"process", "signal by descriptor", func(t targets) error {
		fd, err := pidfd(t)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0)
	}},
	{"process", "take a descriptor of another", func(t targets) error {
		fd, err := pidfd(t)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return descriptor(unix.SYS_PIDFD_GETFD, uintptr(fd), 0, 0)
	}},
	{"process", "trace another", func(t targets) error {
		const seize = 0x4206 // attaches without stopping it
		return call(unix.SYS_PTRACE, seize, uintptr(t.Victim), 0, 0)
	}},
	{"process", "read another's memory", func(t targets) error {
		var b [1]byte
		local := unix.Iovec{Base: &b[0], Len: 1}
		err := call(unix.SYS_PROCESS_VM_READV, uintptr(t.Victim), uintptr(unsafe.Pointer(&local)), 1,
			uintptr(unsafe.Pointer(&unix.RemoteIovec{Base: 0x1000, Len: 1})), 1)
		if errors.Is(err, unix.EFAULT) {
			return nil // it was looked for at that address
		}
		return err
	}},
	{"process", "limit another", func(t targets) error {
		return unix.Prlimit(t.Victim, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
	}},
	{"process", "slow another", func(t targets) error { return unix.Setpriority(unix.PRIO_PROCESS, t.Victim, 1) }},
	{"process", "bind another to a processor", func(t targets) error {
		var set unix.CPUSet
		set.Set(0)
		return unix.SchedSetaffinity(t.Victim, &set)
	}},
	{"process", "become another user", func(targets) error { return call(unix.SYS_SETRESUID, 65534, 65534, 65534) }},
	{"process", "let itself be debugged", func(targets) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }},
	{"memory", "map memory to execute", func(targets) error {
		data, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err == nil {
			unix.Munmap(data)
		}
		return err
	}},
	{"memory", "make memory executable", func(targets) error {
		data, err := page()
		if err != nil {
			return err
		}
		defer unix.Munmap(data)
		return unix.Mprotect(data, unix.PROT_READ|unix.PROT_EXEC)
	}},
	{"memory", "make it so by a key", func(targets) error {
		data, err := page()
		if err != nil {
			return err
		}
		defer unix.Munmap(data)
		return call(unix.SYS_PKEY_MPROTECT, uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), unix.PROT_READ|unix.PROT_EXEC, ^uintptr(0))
	}},
	{"memory", "have all memory executable", func(targets) error {
		const readImpliesExec = 0x0400000
		return call(unix.SYS_PERSONALITY, readImpliesExec)
	}},
	{"memory", "make a file in memory", func(targets) error {
		fd, err := unix.MemfdCreate("x", 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}},
	{"memory", "handle page faults", func(targets) error { return descriptor(unix.SYS_USERFAULTFD, unix.O_CLOEXEC) }},
	{"memory", "lock memory", func(targets) error { return unix.Mlockall(unix.MCL_FUTURE | unix.MCL_ONFAULT) }},
	{"memory", "share System V memory", func(targets) error { return call(unix.SYS_SHMGET, 0, 4096, 0o600) }},
	{"kernel", "mount", func(t targets) error {
		if err := unix.Mount("none", t.Dir, "tmpfs", 0, ""); err != nil {
			return err
		}
		return unix.Unmount(t.Dir, unix.MNT_DETACH)
	}},
	{"kernel", "mount by the new calls", func(targets) error {
		fd, err := unix.Fsopen("tmpfs", 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}},
	{"kernel", "change the root", func(t targets) error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		return unix.Chroot(t.Dir)
	}},
	{"kernel", "make a user namespace", func(targets) error {
		args := struct{ flags, pidfd, childTID, parentTID, exitSignal, stack, size, tls uint64 }{flags: unix.CLONE_NEWUSER, exitSignal: uint64(unix.SIGCHLD)}
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		if errno != 0 {
			return errno
		}
		if pid == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		_, err := unix.Wait4(int(pid), nil, 0, nil)
		return err
	}},
	{"kernel", "make a namespace", func(targets) error { return unix.Unshare(unix.CLONE_NEWUTS) }},
	{"kernel", "enter a namespace", func(t targets) error {
		fd, err := pidfd(t)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Setns(fd, unix.CLONE_NEWUTS)
	}},
	{"kernel", "set up io_uring", func(targets) error {
		var params [120]byte
		return descriptor(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)))
	}},
	{"kernel", "load a program", func(targets) error {
		attr := struct{ kind, key, value, entries uint32 }{2, 4, 4, 1} // an array
		return descriptor(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}},
	{"kernel", "measure itself", func(targets) error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
		fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}},
	{"kernel", "use the keyring", func(targets) error {
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true)
		return err
	}},
	{"kernel", "add a key", func(targets) error {
		_, err := unix.AddKey("user", "x", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	}},
	{"kernel", "read its log", func(targets) error {
		_, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
		return err
	}},
	{"kernel", "control a descriptor", func(targets) error {
		_, err := unix.IoctlGetInt(2, unix.TIOCINQ)
		return err
	}},
	{"kernel", "make a message queue", func(targets) error { return call(unix.SYS_MSGGET, 0, 0o600) }},
	{"kernel", "make a pipe", func(targets) error {
		var p [2]int
		err := unix.Pipe2(p[:], unix.O_CLOEXEC)
		if err == nil {
			unix.Close(p[0])
			unix.Close(p[1])
		}
		return err
	}},
}
