package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// runDirs are the run directories that the supervisor has had. Each stays its own
// until it closes, for workers that began there may still serve.
type runDirs struct {
	mu   sync.Mutex
	open map[string]*os.File // locked
}

// claim makes a run directory and keeps others from it. Two edges in one would take
// each other's sockets away, and requests to one reach workers of the other.
func (r *runDirs) claim(dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.open[dir]; f != nil {
		ours, err1 := f.Stat()
		there, err2 := os.Stat(dir)
		if err1 == nil && err2 == nil && os.SameFile(ours, there) {
			return nil
		}
		f.Close() // somebody has removed it
		delete(r.open, dir)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := claim(f); err != nil {
		f.Close()
		return err
	}
	if r.open == nil {
		r.open = make(map[string]*os.File)
	}
	r.open[dir] = f
	return nil
}

func claim(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// Whoever can connect to a worker's socket owns that tenant's data.
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("is %v, want a directory that only its owner may enter: chmod 0700 it, or name another", info.Mode())
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.New("another edge uses it: stop that one, or name another")
	}
	return err
}

// release lets others have the directories.
func (r *runDirs) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.open {
		f.Close()
	}
	r.open = nil
}
