// Package engine stores a tenant's documents: phext files, with a write-ahead
// log for the changes that the files do not hold yet. It knows no HTTP.
//
// A write is acknowledged when it is in the log and the log is synced; many
// writers, of any documents, share one sync. Readers see a change only then. A
// checkpoint writes a document's file anew, atomically, when enough has changed
// or nothing changes any more, so that a .phext file is a complete and valid
// phext at every instant. A read never creates a file.
//
// The data directory holds DOCUMENT.phext files, .trash for removed ones, and
// .sq for the log, the lock, the owner's name and temporary files. It has one owner at a time.
package engine

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

const (
	controlFolder = ".sq"
	trashFolder   = ".trash"
	lockFile      = "lock"
	tempPrefix    = "tmp-"
	quarantine    = "quarantine"
)

// Options configure an [Engine].
type Options struct {
	Dir    string      // the tenant's data directory; must exist
	Tenant string      // whose directory it must be; see [OwnerError]
	Owner  string      // the id that it must have, see [ErrAbsent]; "" for any
	Logger *zap.Logger // required

	// ObserveSync receives the duration of each write of the log with its sync,
	// ObserveCheckpoint that of each checkpoint; nil to ignore.
	ObserveSync       func(time.Duration)
	ObserveCheckpoint func(time.Duration)

	LockWait time.Duration // how long Open waits for the previous owner's lock; default 10 s

	// Memory is how many bytes open documents may hold: indexes, small files and
	// changes that are not in the files yet. Beyond it documents are closed, and
	// writers wait for checkpoints. Default 64 MiB.
	Memory int64

	idle    time.Duration // without writes before a checkpoint; default 2 s; tests shorten it
	segment int64         // bytes after which the log goes on in a new file; default 8 MiB; tests shorten it
	layout  layout        // of indexes; tests make them sparse

	now  func() time.Time // the clock that keys age by; tests turn it
	keys int              // that are kept at most; default 100,000; tests lower it
}

// Engine owns a tenant's data directory. Its methods may be called from any
// number of goroutines.
type Engine struct {
	opts    Options
	log     *zap.Logger
	dir     directory // the data directory
	control directory // its .sq
	lock    *os.File
	owner   string // the random id of the data directory

	opened sync.Map // docs, to be looked up without mu

	// door guards the writes that have joined the pending batch, and is taken
	// before mu. Which batch that is changes only under both.
	door sync.Mutex

	mu       sync.Mutex             // guards what follows; never held during I/O
	docs     map[string]*document   // that are open
	dirty    map[*document]struct{} // that hold changes their file does not
	sizes    map[string]int64       // of documents not opened yet
	counts   map[string]counted
	total    int64  // bytes of all documents
	seq      uint64 // the last one given out
	pending  *batch // collects records until somebody commits it
	free     int64  // bytes that the log has for records
	promised int64  // of them, to records that are not written yet
	closing  bool   // no more writes from outside
	stopped  bool   // no more at all
	warned   bool   // that the quota is nearly used up
	memory   memory
	keys     keys
	err      error // ErrFailed, and why the log failed

	failed chan struct{}
	wake   chan struct{} // the committer has a batch to commit
	untidy chan struct{} // and segments to look at
	quiet  *time.Timer   // fires when the log was idle for quietAfter
	kick   chan struct{} // the checkpointer has a document
	quit   chan struct{} // ends the checkpointer
	drain  chan struct{} // ends the committer

	checkpointer sync.WaitGroup
	committer    sync.WaitGroup
	closeOnce    sync.Once
	closeErr     error

	// committing is held by whoever writes the log: a writer, or the committer.
	// It guards what follows and is taken before mu.
	committing sync.Mutex
	wal        *wal
	expected   int      // writers who are there already, or whom the last batch woke
	records    []record // of the last batch, to be used again
	joined     []*write // likewise
}

// Open locks the data directory, brings back every acknowledged change and is
// ready to serve. It fails with [ErrLocked], [ErrAbsent], an *[OwnerError] or a *[CorruptError]; a document that
// cannot be read does not make it fail.
func Open(opts Options) (*Engine, error) {
	if opts.LockWait == 0 {
		opts.LockWait = 10 * time.Second
	}
	if opts.idle == 0 {
		opts.idle = 2 * time.Second
	}
	if opts.segment == 0 {
		opts.segment = rotateAt
	}
	if opts.Memory == 0 {
		opts.Memory = 64 << 20
	}
	if opts.layout == (layout{}) {
		opts.layout = defaultLayout
	}
	if opts.now == nil {
		opts.now = time.Now
	}
	if opts.keys == 0 {
		opts.keys = maxKeys
	}
	e := &Engine{
		opts:    opts,
		log:     opts.Logger.With(zap.String("tenant", opts.Tenant)),
		docs:    make(map[string]*document),
		dirty:   make(map[*document]struct{}),
		sizes:   make(map[string]int64),
		counts:  make(map[string]counted),
		pending: newBatch(),
		failed:  make(chan struct{}),
		wake:    make(chan struct{}, 1),
		untidy:  make(chan struct{}, 1),
		quiet:   time.NewTimer(quietAfter),
		kick:    make(chan struct{}, 1),
		quit:    make(chan struct{}),
		drain:   make(chan struct{}),
	}
	if err := e.open(); err != nil {
		e.releaseFiles()
		return nil, fmt.Errorf("open data directory of tenant %s: %w", opts.Tenant, err)
	}
	e.free = e.wal.room()
	e.committer.Go(e.commitLoop)
	if err := e.logRecovered(); err != nil {
		e.abort()
		return nil, fmt.Errorf("open data directory of tenant %s: %w", opts.Tenant, err)
	}
	e.keysOpened()
	e.checkpointer.Go(e.checkpointLoop)
	return e, nil
}

func (e *Engine) open() (err error) {
	if e.dir, err = openDirectory(e.opts.Dir); err != nil {
		return err
	}
	if err := e.checkPresent(); err != nil {
		return err
	}
	if e.control, err = e.dir.sub(controlFolder, directory.sync); err != nil {
		return err
	}
	if e.lock, err = e.control.lock(lockFile, e.opts.LockWait); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if err := e.checkOwner(); err != nil {
		return err
	}
	names, err := e.dir.names()
	if err != nil {
		return fmt.Errorf("list documents: %w", err)
	}
	for _, file := range names {
		if name, ok := documentOf(file); ok {
			id, err := e.dir.stat(file)
			if err != nil {
				return fmt.Errorf("look at document %q: %w", name, err)
			}
			if id.regular {
				e.sizes[name] = id.size
				e.total += id.size
			}
		}
	}
	return e.recover()
}

// documentOf returns the document whose file has this name.
func documentOf(file string) (name string, ok bool) {
	name, ok = strings.CutSuffix(file, wire.DocumentExt)
	return name, ok && wire.CheckDocument(name) == nil
}

// Failed is closed once writing the log has failed. The process must exit then.
func (e *Engine) Failed() <-chan struct{} { return e.failed }

// Err returns why the log failed, an [ErrFailed], or nil if it did not.
func (e *Engine) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// fail poisons the engine: after a failed write or sync nobody knows what the
// disk holds, and a second sync would claim success for data that is gone.
func (e *Engine) fail(err error) {
	e.mu.Lock()
	first := e.err == nil
	if first {
		e.err = fmt.Errorf("%w: %w", ErrFailed, err)
		close(e.failed)
		e.memory.wakeLocked()
	}
	e.mu.Unlock()
	if first {
		e.log.Error("storage failed, no more writes are taken", zap.Error(err))
	}
}

// Close takes no more writes, finishes those under way, checkpoints every
// changed document, empties the log and releases the directory. Views stay valid
// until they are closed. Changes of a document whose file was edited meanwhile
// stay in the log.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() {
		e.mu.Lock()
		e.closing = true
		e.opened.Clear() // so that whoever comes is told
		e.memory.wakeLocked()
		e.mu.Unlock()
		close(e.quit)
		e.checkpointer.Wait()
		var errs []error
		for _, d := range e.dirtyDocuments() {
			if err := e.checkpoint(d); err != nil {
				errs = append(errs, fmt.Errorf("checkpoint document %q: %w", d.name, err))
			}
		}
		e.stopCommitter()
		if e.Err() == nil && len(e.dirty) == 0 && e.wal.disposable(e.docs) {
			err := e.saveKeysNow()
			if err == nil {
				err = e.wal.empty(e.seq + 1)
			}
			if err == nil {
				err = e.wal.bury()
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("empty the log: %w", err))
			}
		}
		e.releaseFiles()
		if err := e.Err(); err != nil {
			errs = append(errs, err)
		}
		e.closeErr = errors.Join(errs...)
	})
	return e.closeErr
}

func (e *Engine) stopCommitter() {
	e.mu.Lock()
	e.closing, e.stopped = true, true
	e.memory.wakeLocked()
	e.mu.Unlock()
	close(e.drain)
	e.committer.Wait()
	e.exclusively(func() {}) // nobody makes room in the log any more
}

// abort leaves everything as a crash would, apart from the lock.
func (e *Engine) abort() {
	e.closeOnce.Do(func() {
		close(e.quit)
		e.checkpointer.Wait()
		e.stopCommitter()
		e.releaseFiles()
	})
}

func (e *Engine) releaseFiles() {
	if e.wal != nil {
		e.wal.close()
	}
	for _, d := range e.docs {
		d.close()
	}
	for _, f := range []*os.File{e.control.f, e.dir.f, e.lock} {
		if f != nil {
			f.Close()
		}
	}
}
