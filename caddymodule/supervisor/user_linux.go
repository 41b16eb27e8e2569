package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the folders in a data directory, each of which costs two
// descriptors while it is given away. Workers make one below another.
const maxDepth = 32

// userRights are the capabilities by which workers get users of their own: to
// start them as another, to give them their files, and to kill them.
var userRights = []struct {
	bit  uint
	name string
}{
	{unix.CAP_SETUID, "CAP_SETUID"}, {unix.CAP_SETGID, "CAP_SETGID"}, {unix.CAP_CHOWN, "CAP_CHOWN"}, {unix.CAP_KILL, "CAP_KILL"},
}

// checkUserRights says which of them this process does not have.
func checkUserRights() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	if err := unix.Capget(&header, &has[0]); err != nil {
		return fmt.Errorf("reading the capabilities of the edge: %w", err)
	}
	var lacking []string
	for _, right := range userRights {
		if has[0].Effective&(1<<right.bit) == 0 {
			lacking = append(lacking, right.name)
		}
	}
	if lacking != nil {
		return fmt.Errorf("the edge has no %s", strings.Join(lacking, ", "))
	}
	return nil
}

// keepRights has what is started from this thread, to which the caller is locked,
// have no right of the edge's own that a service manager gave it to hand on. They
// would outlast the change to another user.
func keepRights() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping the edge's rights from the worker: %w", err)
	}
	return nil
}

// runAs has a process run as the user of this number, in the group of the same
// and no other.
func runAs(attr *syscall.SysProcAttr, uid uint32) {
	attr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
}

// directoryPath names an open directory to a process that is about to be made,
// which may not be allowed to go there from the root.
func directoryPath(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", dir.Fd()) }

// give makes the data directory at path, and all in it, a user's alone, and opens
// it, if only to be entered. A directory that has the user and the mode already
// was given whole. No link is followed; one of another kind than a folder or a
// file stays as it is, since no worker opens it.
func give(path string, uid, gid int) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", path, err)
	}
	dir := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (int(st.Uid) != uid || int(st.Gid) != gid || st.Mode&0o7777 != 0o700) {
		err = giver{uid: uid, gid: gid, device: uint64(st.Dev)}.folder(fd, ".")
	}
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("giving data directory %s to uid %d: %w", path, uid, err)
	}
	return dir, nil
}

type giver struct {
	uid, gid int
	device   uint64
}

// folder gives away a folder, itself last, so that one that was given away only in
// part is seen to be; name is for errors.
func (g giver) folder(path int, name string) error {
	if strings.Count(name, "/") >= maxDepth {
		return fmt.Errorf("%q: more than %d folders in each other", name, maxDepth)
	}
	// The edge may have no right to look into what is another user's, but to take
	// it. From now on nobody else gets in.
	if err := chown(path, os.Geteuid(), os.Getegid()); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	fd, err := unix.Openat(path, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	if name == "." {
		if err := unix.Fchmod(fd, 0o700); err != nil {
			return err
		}
	}
	for {
		names, err := dir.Readdirnames(1000)
		if err == io.EOF {
			return chown(path, g.uid, g.gid)
		}
		if err != nil {
			return err
		}
		for _, entry := range names {
			if err := g.entry(fd, entry, filepath.Join(name, entry)); err != nil {
				return err
			}
		}
	}
}

func (g giver) entry(dir int, entry, name string) error {
	fd, err := unix.Openat(dir, entry, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case kind != unix.S_IFDIR && kind != unix.S_IFREG:
		return nil
	case uint64(st.Dev) != g.device:
		return fmt.Errorf("%q is on another disk, and will not be given away", name)
	case kind == unix.S_IFDIR:
		return g.folder(fd, name)
	case st.Nlink > 1:
		return fmt.Errorf("%q has another name, maybe outside, and will not be given away: replace it by a copy", name)
	}
	if err := chown(fd, g.uid, g.gid); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

// chown changes the owner of what is open, if only by name.
func chown(fd, uid, gid int) error { return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH) }
