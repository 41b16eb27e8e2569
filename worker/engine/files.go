package engine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// directory is an open directory. Everything in it is reached by bare name
// relative to the descriptor and never through a symbolic link, so what a person
// or another process plants in the data directory cannot lead elsewhere, and no
// error holds a path.
type directory struct{ f *os.File }

func openDirectory(path string) (directory, error) {
	fd, err := -1, error(unix.EINTR)
	for err == unix.EINTR {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return directory{}, err
	}
	return directory{os.NewFile(uintptr(fd), "data directory")}, nil
}

// at calls fn with the descriptor, which stays open meanwhile, and again as long
// as a signal interrupts it: EINTR means that a call has done nothing.
//
// That holds for a sync, too. What a write back failed with is kept in the file
// until a sync returns that very error, and no file system of a local disk can
// be interrupted there; one that asks a server may be, but then has not looked
// at that error yet. So a repeated sync cannot claim success for data that an
// interrupted one was told is lost.
func (d directory) at(fn func(fd int) error) error {
	conn, err := d.f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) {
		inner = unix.EINTR
		for inner == unix.EINTR {
			inner = fn(int(fd))
		}
	})
	if err != nil {
		return err
	}
	return inner
}

// open opens a file with flags of open(2); it never follows a link, and a FIFO
// never blocks it.
func (d directory) open(name string, flags int) (*os.File, error) {
	var file *os.File
	err := d.at(func(dir int) error {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if err == nil {
			file = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	return file, err
}

// sub opens a folder of d. Where there is none it makes one, with mode 0700, and
// calls sync for d, or what is synced in it could vanish with it.
func (d directory) sub(name string, sync func(directory) error) (directory, error) {
	err := d.at(func(dir int) error { return unix.Mkdirat(dir, name, 0o700) })
	if err == nil {
		err = sync(d)
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return directory{}, fmt.Errorf("make folder %s: %w", name, err)
	}
	f, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return directory{}, fmt.Errorf("open folder %s: %w", name, foreign(err))
	}
	return directory{f}, nil
}

// isOddFile reports whether something was not opened because it is a link, a
// socket, or a folder where there should be a file or the other way round.
func isOddFile(err error) bool {
	return errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENXIO)
}

// foreign makes an [ErrForeign] of the error of opening what is the engine's own,
// if something else has its name.
func foreign(err error) error {
	if isOddFile(err) || errors.Is(err, ErrNotRegular) {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return err
}

// stat describes name itself, not what a link leads to. A missing file is the
// zero identity and no error.
func (d directory) stat(name string) (identity, error) {
	var st unix.Stat_t
	err := d.at(func(dir int) error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, nil
	}
	return identityOf(&st), err
}

func (d directory) rename(name string, to directory, toName string) error {
	return d.at(func(from int) error {
		return to.at(func(dir int) error { return unix.Renameat(from, name, dir, toName) })
	})
}

func (d directory) remove(name string) error {
	return d.at(func(dir int) error { return unix.Unlinkat(dir, name, 0) })
}

func (d directory) sync() error { return d.f.Sync() }

// names lists the directory.
func (d directory) names() ([]string, error) {
	// A descriptor of its own: concurrent listings must not share an offset.
	f, err := d.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// temp makes a file with a name of its own.
func (d directory) temp() (*os.File, error) {
	var random [8]byte
	rand.Read(random[:])
	return d.open(tempPrefix+hex.EncodeToString(random[:]), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
}

// identity tells whether a file is still the one that was opened. The zero
// value is a file that does not exist.
type identity struct {
	exists  bool
	regular bool
	inode   uint64
	size    int64
	mtime   int64 // nanoseconds
}

func identityOf(st *unix.Stat_t) identity {
	return identity{
		exists:  true,
		regular: st.Mode&unix.S_IFMT == unix.S_IFREG,
		inode:   uint64(st.Ino),
		size:    st.Size,
		mtime:   st.Mtim.Nano(),
	}
}

func identityOfFile(f *os.File) (identity, error) {
	var st unix.Stat_t
	err := directory{f}.at(func(fd int) error { return unix.Fstat(fd, &st) })
	return identityOf(&st), err
}

// lock takes the flock on name, waiting for a previous owner at most for wait.
// The lock is on a file that is never renamed or removed; its inode is compared
// afterwards, in case someone did so anyway.
func (d directory) lock(name string, wait time.Duration) (*os.File, error) {
	for deadline := time.Now().Add(wait); ; {
		f, err := d.open(name, unix.O_RDWR|unix.O_CREAT)
		if err != nil {
			return nil, foreign(err)
		}
		err = directory{f}.at(func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			mine, err1 := identityOfFile(f)
			named, err2 := d.stat(name)
			if err1 == nil && err2 == nil && mine.inode == named.inode && mine.regular {
				return f, nil
			}
			err = errors.Join(err1, err2, unix.EWOULDBLOCK)
			if err1 == nil && !mine.regular {
				err = foreign(ErrNotRegular)
			}
		}
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		if !time.Now().Before(deadline) {
			return nil, ErrLocked
		}
		time.Sleep(5 * time.Millisecond)
	}
}
