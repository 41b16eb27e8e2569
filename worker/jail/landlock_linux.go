package jail

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// go-landlock would do what is below, but before ABI 8 it wants libcap's psx,
// where the Go runtime has the same for a static worker.

// Beneath the data directory a worker reads, writes, makes, renames and removes
// regular files, and makes folders.
const allowedBeneath = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR |
	unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
	unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
	unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REFER

const (
	// minABI is the first that lets a file be renamed into another folder at
	// all, which the engine does.
	minABI = 2
	// fullABI is the first that knows everything the jail is to deny: of files
	// up to ABI 5, TCP from 4, signals and abstract sockets from 6 on. What came
	// later is refused by seccomp, too.
	fullABI = 6
	// tsyncABI is the first whose kernel takes all threads along by itself.
	tsyncABI = 8
)

// handled returns all that a kernel of this ABI can deny.
func handled(abi int) unix.LandlockRulesetAttr {
	var attr unix.LandlockRulesetAttr
	for _, since := range []struct {
		abi             int
		fs, net, scoped uint64
	}{
		{1, unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1, 0, 0}, // it and all before it
		{2, unix.LANDLOCK_ACCESS_FS_REFER, 0, 0},
		{3, unix.LANDLOCK_ACCESS_FS_TRUNCATE, 0, 0},
		{4, 0, unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, 0},
		{5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 0, 0},
		{6, 0, 0, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL},
		{9, unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX, 0, 0},
		{10, 0, unix.LANDLOCK_ACCESS_NET_BIND_UDP | unix.LANDLOCK_ACCESS_NET_CONNECT_SEND_UDP, 0},
	} {
		if abi >= since.abi {
			attr.Handled_access_fs |= since.fs
			attr.Handled_access_net |= since.net
			attr.Scoped |= since.scoped
		}
	}
	return attr
}

// landlock leaves the process the files beneath dir, no TCP, and no signal or
// abstract socket but its own.
func landlock(dir string) (string, error) {
	abi, err := landlockABI()
	switch {
	case errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP):
		return "", errMissing("the kernel has no Landlock, or does not enable it (boot parameter lsm=)")
	case err != nil:
		return "", err
	case abi < minABI:
		return "", errMissing(fmt.Sprintf("the kernel has Landlock ABI %d, and the least of use is %d (Linux 5.19)", abi, minABI))
	}
	attr := handled(abi)
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return "", fmt.Errorf("creating the rule set: %w", errno)
	}
	defer unix.Close(int(ruleset))
	parent, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open data directory: %w", err)
	}
	defer unix.Close(parent)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: allowedBeneath & attr.Handled_access_fs, Parent_fd: int32(parent)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return "", fmt.Errorf("allowing the data directory: %w", errno)
	}
	if abi >= tsyncABI {
		if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, unix.LANDLOCK_RESTRICT_SELF_TSYNC, 0); errno != 0 {
			err = errno
		}
	} else {
		err = allThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0)
	}
	if err != nil {
		return "", err
	}
	applied := fmt.Sprintf("ABI %d", abi)
	if abi < fullABI {
		return applied, errMissing(fmt.Sprintf("the kernel has Landlock ABI %d, and all of it needs %d (Linux 6.12)", abi, fullABI))
	}
	return applied, nil
}

func landlockABI() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, errno
	}
	return int(abi), nil
}
