package tenants

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// MaxFileBytes is the largest tenants.json that is read: room for hundreds of
// thousands of tenants, and a bound on what a wrong path can cost.
const MaxFileBytes = 64 << 20

// File is a tenants.json on disk and the last good registry read from it. All
// methods may be called concurrently.
type File struct {
	path    string
	current atomic.Pointer[Registry]

	// mu is held while the file is read or replaced and while callbacks run, so
	// that registries succeed each other as the file's contents did.
	mu       sync.Mutex
	sum      [32]byte    // SHA-256 of the content read last, good or bad
	seen     fs.FileInfo // the file as it was when read last; nil if it could not be
	readAt   time.Time
	err      *FileError // why the content read last is not in force
	watching bool
	onChange func(old, new *Registry)
	onError  func(error)

	statusMu sync.Mutex // apart from mu, so that a health check waits for no disk
	status   Status
}

// Status is what a health check shows of a [File]. It holds no key.
type Status struct {
	Path      string
	LoadedAt  time.Time     // when a content of the file last came into force
	Took      time.Duration // from reading that content until it was in force
	LastError string        // why the content read last is not in force, without the path; "" if it is
	Tenants   int           // in the registry in force, disabled ones included
}

// Open reads the tenants.json at path. It must exist and be valid: there is no
// default, least of all a default key.
func Open(path string) (*File, error) {
	f := &File{path: path, status: Status{Path: path}}
	err := f.Reload()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: set SQ_CONFIG to the tenants file, or make it from deploy/tenants.json.example", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load tenants: %w", err)
	}
	return f, nil
}

// Registry returns the registry in force: that of the last good content.
func (f *File) Registry() *Registry { return f.current.Load() }

// Status returns how the file stands. It never waits for the disk.
func (f *File) Status() Status {
	f.statusMu.Lock()
	defer f.statusMu.Unlock()
	return f.status
}

// Reload reads the file now. A good content is in force when Reload returns; a
// bad one leaves the last good one in force and is a [*FileError]. The watch's
// callbacks are called as for any other change.
func (f *File) Reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reload(false)
}

// reloadIfGood is [File.Reload], except that it leaves a new fault alone: the
// file may be half written.
func (f *File) reloadIfGood() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reload(true)
}

// reload is [File.Reload], or reloadIfGood, with mu held.
func (f *File) reload(onlyGood bool) error {
	now := time.Now()
	data, info, err := readFile(f.path)
	var sum [32]byte
	var r *Registry
	if err == nil {
		sum = sha256.Sum256(data)
		if sum == f.sum {
			f.readAt, f.seen = now, info
			if f.err != nil {
				return f.err
			}
			return nil
		}
		r, err = Parse(data)
	}
	if err != nil && onlyGood {
		return err
	}
	f.readAt, f.seen, f.sum = now, info, sum // info is nil where it could not be read
	return f.install(r, err, now)
}

// install puts r in force, or records why the file gave none. Each change and
// each new fault is reported once. began is when the reading of r did.
func (f *File) install(r *Registry, err error, began time.Time) error {
	if err != nil {
		fault := f.fault(err)
		known := f.err != nil && f.err.Error() == fault.Error()
		f.err = fault
		f.setStatus(func(s *Status) {
			s.LastError = (&FileError{Line: fault.Line, Column: fault.Column, Err: fault.Err}).Error()
		})
		if !known && f.onError != nil {
			f.onError(fault)
		}
		return fault
	}
	f.err = nil
	old := f.current.Load()
	changed := old == nil || !old.equal(r)
	if changed {
		f.current.Store(r)
	}
	f.setStatus(func(s *Status) {
		s.LastError, s.LoadedAt, s.Took, s.Tenants = "", time.Now(), time.Since(began), len(r.byID)
	})
	if old != nil && changed && f.onChange != nil {
		f.onChange(old, r)
	}
	return nil
}

// fault adds the path to err.
func (f *File) fault(err error) *FileError {
	if at, ok := errors.AsType[*FileError](err); ok {
		return &FileError{Path: f.path, Line: at.Line, Column: at.Column, Err: at.Err}
	}
	return &FileError{Path: f.path, Err: err}
}

func (f *File) setStatus(set func(*Status)) {
	f.statusMu.Lock()
	defer f.statusMu.Unlock()
	set(&f.status)
}

// settled is how long a file must have been unmodified when it was read for an
// equal modification time to mean an equal content: file systems, above all
// network ones, keep it no finer than a second or two.
const settled = 2 * time.Second

// stale reports whether the file may differ from what was read last.
func (f *File) stale() bool {
	info, err := os.Stat(f.path)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || f.seen == nil {
		return true
	}
	return !os.SameFile(info, f.seen) ||
		info.Size() != f.seen.Size() ||
		!info.ModTime().Equal(f.seen.ModTime()) ||
		f.readAt.Sub(info.ModTime()) < settled
}

// readFile returns the content of the file at path and the state it was in
// before it was read. The error does not name the path.
func readFile(path string) ([]byte, fs.FileInfo, error) {
	// Without O_NONBLOCK, opening a named pipe would wait for its writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, withoutPath(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, errors.New("not a regular file")
	}
	var data bytes.Buffer
	if info.Size() <= MaxFileBytes {
		data.Grow(int(info.Size()) + bytes.MinRead)                  // or it would be copied again and again
		_, err = data.ReadFrom(io.LimitReader(file, MaxFileBytes+1)) // it may be growing
	}
	if err != nil {
		return nil, nil, withoutPath(err)
	}
	if info.Size() > MaxFileBytes || data.Len() > MaxFileBytes {
		return nil, nil, fmt.Errorf("larger than %d bytes", MaxFileBytes)
	}
	return data.Bytes(), info, nil
}

// withoutPath drops the path from an error of package os.
func withoutPath(err error) error {
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", at.Op, at.Err)
	}
	return err
}
