package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/worker/jail"
)

// attempt returns nil where it did what must not be possible.
type attempt struct {
	group, name string
	try         func(targets) error
}

var attempts = append(append(append([]attempt(nil), files...), network...), kernel...)

func (t targets) secret() string { return filepath.Join(t.Sibling, "secret.phext") }

func (t targets) own(name string) string { return filepath.Join(t.Dir, name) }

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	_, err = f.Read(b[:])
	return err
}

func list(path string) error {
	_, err := os.ReadDir(path)
	return err
}

var files = []attempt{
	{"file", "read a sibling's document", func(t targets) error { return read(t.secret()) }},
	{"file", "read it by ..", func(t targets) error {
		dir, err := unix.Open(t.Dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		fd, err := unix.Openat(dir, "../"+filepath.Base(t.Sibling)+"/secret.phext", unix.O_RDONLY, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}},
	{"file", "read it by /proc/self/root", func(t targets) error { return read("/proc/self/root" + t.secret()) }},
	{"file", "read it by /proc/self/fd", func(t targets) error {
		// A descriptor that only names the file is to be had; it must not read.
		fd, err := unix.Open(t.secret(), unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return read(fmt.Sprintf("/proc/self/fd/%d", fd))
	}},
	{"file", "read it by a planted link", func(t targets) error { return read(t.own("planted")) }},
	{"file", "make a link to it", func(t targets) error {
		defer os.Remove(t.own("symlink"))
		return os.Symlink(t.secret(), t.own("symlink"))
	}},
	{"file", "make a hard link to it", func(t targets) error {
		defer os.Remove(t.own("hard"))
		return os.Link(t.secret(), t.own("hard"))
	}},
	{"file", "map it", func(t targets) error {
		fd, err := unix.Open(t.secret(), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		data, err := unix.Mmap(fd, 0, 1, unix.PROT_READ, unix.MAP_SHARED)
		if err == nil {
			unix.Munmap(data)
		}
		return err
	}},
	{"file", "read it by its handle", func(t targets) error {
		handle, mount, err := unix.NameToHandleAt(unix.AT_FDCWD, t.secret(), 0)
		if err != nil {
			return err
		}
		_ = mount
		dir, err := unix.Open(t.Dir, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		fd, err := unix.OpenByHandleAt(dir, handle, unix.O_RDONLY)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}},
	{"file", "write a sibling's document", func(t targets) error {
		f, err := os.OpenFile(t.secret(), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			f.Close()
		}
		return err
	}},
	{"file", "truncate it", func(t targets) error { return os.Truncate(t.secret(), 6) }},
	{"file", "make a file beside it", func(t targets) error {
		path := filepath.Join(t.Sibling, "new")
		defer os.Remove(path)
		return os.WriteFile(path, nil, 0o600)
	}},
	{"file", "make a folder beside it", func(t targets) error {
		path := filepath.Join(t.Sibling, "folder")
		defer os.Remove(path)
		return os.Mkdir(path, 0o700)
	}},
	{"file", "take it by rename", func(t targets) error {
		if err := os.Rename(t.secret(), t.own("taken")); err != nil {
			return err
		}
		return os.Rename(t.own("taken"), t.secret())
	}},
	{"file", "replace it by rename", func(t targets) error {
		if err := os.WriteFile(t.own("fake"), []byte("secret"), 0o600); err != nil {
			return err
		}
		return os.Rename(t.own("fake"), t.secret())
	}},
	{"file", "exchange it", func(t targets) error {
		if err := os.WriteFile(t.own("fake"), []byte("secret"), 0o600); err != nil {
			return err
		}
		return unix.Renameat2(unix.AT_FDCWD, t.own("fake"), unix.AT_FDCWD, t.secret(), unix.RENAME_EXCHANGE)
	}},
	{"file", "remove a file beside it", func(t targets) error { return os.Remove(filepath.Join(t.Sibling, "spare")) }},
	{"file", "chmod it", func(t targets) error { return os.Chmod(t.secret(), 0o600) }},
	{"file", "chown it", func(t targets) error { return os.Chown(t.secret(), 0, 0) }},
	{"file", "set its times", func(t targets) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, t.secret(), []unix.Timespec{{}, {}}, 0)
	}},
	{"file", "watch it", func(t targets) error {
		fd, err := unix.InotifyInit1(0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.InotifyAddWatch(fd, t.secret(), unix.IN_ALL_EVENTS)
		return err
	}},
	{"file", "list a sibling's directory", func(t targets) error { return list(t.Sibling) }},
	{"file", "list the sockets", func(t targets) error { return list(t.RunDir) }},
	{"file", "list /", func(targets) error { return list("/") }},
	{"file", "list the processes", func(targets) error { return list("/proc") }},
	{"file", "read /etc/passwd", func(targets) error { return read("/etc/passwd") }},
	{"file", "read another's environment", func(t targets) error { return read(fmt.Sprintf("/proc/%d/environ", t.Victim)) }},
	{"file", "read another's status", func(t targets) error { return read(fmt.Sprintf("/proc/%d/status", t.Victim)) }},
	{"file", "read its own maps", func(targets) error { return read("/proc/self/maps") }},
	{"file", "read a device", func(targets) error { return read("/dev/zero") }},
	{"file", "make a device", func(t targets) error {
		defer os.Remove(t.own("device"))
		return unix.Mknod(t.own("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5)))
	}},
	{"file", "make a pipe", func(t targets) error {
		defer os.Remove(t.own("fifo"))
		return unix.Mkfifo(t.own("fifo"), 0o600)
	}},
	{"file", "make a file anybody may run", func(t targets) error {
		path := t.own("program")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		defer os.Remove(path)
		return os.Chmod(path, 0o4755)
	}},
	{"file", "go to another directory", func(t targets) error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // or all threads would go
			return err
		}
		return unix.Chdir(t.Sibling)
	}},
	{"limit", "write a file beyond its length", func(t targets) error {
		f, err := os.Create(t.own("long"))
		if err != nil {
			return err
		}
		defer os.Remove(t.own("long"))
		defer f.Close()
		_, err = f.WriteAt([]byte("x"), jail.MaxFileSize)
		return err
	}},
	{"limit", "allocate a file beyond its length", func(t targets) error {
		f, err := os.Create(t.own("long"))
		if err != nil {
			return err
		}
		defer os.Remove(t.own("long"))
		defer f.Close()
		return unix.Ftruncate(int(f.Fd()), jail.MaxFileSize+1)
	}},
	{"limit", "open too many descriptors", func(t targets) error {
		var fds []int
		defer func() {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}()
		for range jail.MaxFiles {
			fd, err := unix.Open(t.Dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
		}
		return nil
	}},
	{"limit", "take more memory", func(targets) error {
		data, err := unix.Mmap(-1, 0, jail.MaxMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
		if err == nil {
			unix.Munmap(data)
		}
		return err
	}},
	{"limit", "take memory that no limit counts", func(targets) error {
		data, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
		if err == nil {
			unix.Munmap(data)
		}
		return err
	}},
	{"limit", "raise a limit", func(targets) error {
		var now unix.Rlimit
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &now); err != nil {
			return err
		}
		return unix.Prlimit(0, unix.RLIMIT_NOFILE, &now, nil)
	}},
}
