package tenants

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockWait is how long an edit waits for another process's edit to end; such an
// edit takes milliseconds.
const lockWait = 10 * time.Second

// editAttempts bounds how often an edit starts over because the file changed by
// hand meanwhile.
const editAttempts = 16

// errChanged makes an edit start over.
var errChanged = errors.New("the file was changed by hand meanwhile each time: try again")

// edit replaces the file's content by what change makes of it, and returns the
// registry that is in force then. It works on the content as it is now, not as
// it was loaded, under a lock that all processes take, so an edit never undoes
// another's or one made by hand. If the content is bad, nothing is changed.
func (f *File) edit(change func(data []byte, r *Registry) ([]byte, error)) (*Registry, error) {
	err := errChanged
	var r *Registry
	for range editAttempts {
		if r, err = f.tryEdit(change); err != errChanged {
			break
		}
	}
	return r, err
}

func (f *File) tryEdit(change func([]byte, *Registry) ([]byte, error)) (*Registry, error) {
	// Writing through a symlink, not over it: the target is replaced.
	target, err := filepath.EvalSymlinks(f.path)
	if err != nil {
		return nil, f.fault(withoutPath(err))
	}
	unlock, err := lock(target)
	if err != nil {
		return nil, f.fault(err)
	}
	defer unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()

	if again, err := filepath.EvalSymlinks(f.path); err != nil || again != target {
		return nil, errChanged
	}
	data, info, err := readFile(target)
	if err != nil {
		return nil, f.fault(err)
	}
	before, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("tenants file is bad and was left as it is, mend it first: %w", f.fault(err))
	}
	edited, err := change(data, before)
	if err != nil {
		return nil, err
	}
	// What is written must load. Positions in a text nobody can see would mislead.
	after, err := Parse(edited)
	if err != nil {
		return nil, fmt.Errorf("edited tenants file would be bad and was not written: %w", errors.Unwrap(err))
	}
	if len(edited) > MaxFileBytes {
		return nil, fmt.Errorf("edited tenants file would be larger than %d bytes and was not written", MaxFileBytes)
	}
	err = replace(target, info, data, edited)
	if err == errChanged {
		return nil, err
	}
	if err != nil {
		return nil, f.fault(err)
	}
	// Readers have the new file from here on, so it comes into force even if the
	// folder's sync fails. The next poll looks at it again, in case a hand's edit
	// followed.
	err = syncFolder(filepath.Dir(target))
	f.seen, f.sum = nil, sha256.Sum256(edited)
	f.install(after, nil, now)
	if err != nil {
		return nil, f.fault(err)
	}
	return after, nil
}

// lock takes the lock for edits of the file at target: flock on a file beside
// it that is never renamed, as the file itself is. The error names no path.
func lock(target string) (unlock func(), err error) {
	path := besides(target, ".lock")
	for deadline := time.Now().Add(lockWait); ; {
		file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock for writing, the folder must be writable: %w", withoutPath(err))
		}
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// Someone may have deleted the file before it was locked: then others
			// lock another one.
			held, err1 := file.Stat()
			named, err2 := os.Lstat(path)
			if err1 == nil && err2 == nil && os.SameFile(held, named) {
				shareLock(file, target)
				return func() { file.Close() }, nil
			}
		}
		file.Close()
		if err != nil && err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			return nil, fmt.Errorf("lock for writing: %w", err)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("lock for writing: another process has held the lock for %v: end it and try again", lockWait)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// shareLock gives the lock file to the owner of the file it guards, so that an
// edit by root does not lock the service out. Only root can, or has to.
func shareLock(file *os.File, target string) {
	if info, err := os.Stat(target); err == nil {
		uid, gid := owner(info)
		file.Chown(uid, gid)
	}
}

// besides returns the hidden name beside target with the given suffix.
func besides(target, suffix string) string {
	return filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+suffix)
}

func owner(info fs.FileInfo) (uid, gid int) {
	stat := info.Sys().(*syscall.Stat_t)
	return int(stat.Uid), int(stat.Gid)
}

// replace makes edited the content of the file at target, which is described by
// info and held data when the edit began. Whoever reads it sees the one or the
// other. The caller holds the lock and syncs the folder. If the file does not
// hold data any more, the error is errChanged and nothing has happened.
func replace(target string, info fs.FileInfo, data, edited []byte) (err error) {
	temp := besides(target, ".tmp")
	// Only a crash leaves one behind, for the lock is held.
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write: %w", withoutPath(err))
	}
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write, the folder must be writable: %w", withoutPath(err))
	}
	defer func() {
		file.Close()
		if err != nil {
			os.Remove(temp)
		}
	}()
	if _, err := file.Write(edited); err != nil {
		return fmt.Errorf("write: %w", withoutPath(err))
	}
	if err := keepOwner(file, info); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write: %w", withoutPath(err))
	}
	now, _, err := readFile(target)
	if err != nil || !bytes.Equal(now, data) {
		return errChanged
	}
	if err := os.Rename(temp, target); err != nil {
		return fmt.Errorf("write: %w", errors.Unwrap(err))
	}
	return nil
}

// keepOwner gives file the owner and then the mode of the one it replaces.
func keepOwner(file *os.File, old fs.FileInfo) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("write: %w", withoutPath(err))
	}
	uid, gid := owner(old)
	if u, g := owner(info); u != uid || g != gid {
		if err := file.Chown(uid, gid); err != nil {
			return fmt.Errorf("keep owner %d:%d, give the file to the user of this process: %w", uid, gid, withoutPath(err))
		}
	}
	if err := file.Chmod(old.Mode().Perm()); err != nil {
		return fmt.Errorf("keep mode: %w", withoutPath(err))
	}
	return nil
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("written, but not known to survive a power cut: %w", withoutPath(err))
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return fmt.Errorf("written, but not known to survive a power cut: %w", withoutPath(err))
	}
	return nil
}
