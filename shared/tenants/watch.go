package tenants

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A change is in force within a second: at the latest pollEvery + quiet after it,
// or longest after it where the file is written to all the time; if the file was
// read half written, quiet later.
const (
	quiet     = 100 * time.Millisecond // without an event: a save has ended
	longest   = 500 * time.Millisecond // from a save's first event to the reload
	pollEvery = 500 * time.Millisecond // where no event comes, as on NFS
)

// maxLinks bounds a chain of symlinks, as the kernel does.
const maxLinks = 40

// Watch keeps the registry in step with the file until ctx is done. It returns
// once the watch is in place and a change made since [Open] is in force.
//
// onChange is called after each change of what the registry grants, whoever made
// it, with the new registry already in force; onError is called once for each new
// fault that keeps the file's content from being in force. Both may be nil. They
// are called one at a time, in order; they must be quick and must not call a
// method of f other than Registry and Status. A file may be watched once at a
// time.
func (f *File) Watch(ctx context.Context, onChange func(old, new *Registry), onError func(error)) error {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		events = nil // no inotify instance is left: the poll alone keeps the promise
	}
	return f.watch(ctx, &watcher{file: f, events: events, poll: time.Tick(pollEvery), again: quiet}, onChange, onError)
}

// watch is [File.Watch] with w.
func (f *File) watch(ctx context.Context, w *watcher, onChange func(old, new *Registry), onError func(error)) error {
	f.mu.Lock()
	if f.watching {
		f.mu.Unlock()
		w.close()
		return errors.New("watch tenants file: it is being watched already")
	}
	f.watching, f.onChange, f.onError = true, onChange, onError
	f.mu.Unlock()
	w.follow()
	f.Reload() // onError has its error
	go w.run(ctx)
	return nil
}

// watcher turns events and polls into reloads of file.
type watcher struct {
	file   *File
	events *fsnotify.Watcher // nil if there are none
	poll   <-chan time.Time

	// again is how long after a bad content the file is read once more, before
	// that counts: an editor that writes in place may have got half way.
	again   time.Duration
	doubted atomic.Bool // what was read last was bad and has not counted yet
}

func (w *watcher) run(ctx context.Context) {
	defer w.stop()
	var events <-chan fsnotify.Event
	var lost <-chan error
	if w.events != nil {
		events, lost = w.events.Events, w.events.Errors
	}
	due := time.NewTimer(0)
	due.Stop()
	defer due.Stop()
	var deadline time.Time // of the reload that is due; zero if none is
	reloadSoon := func() {
		now := time.Now()
		if deadline.IsZero() {
			deadline = now.Add(longest)
		}
		due.Reset(min(quiet, deadline.Sub(now)))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-events:
			if !strings.HasSuffix(event.Name, ownersExt) {
				reloadSoon()
			}
		case <-lost: // the event queue overflowed
			reloadSoon()
		case <-due.C:
			deadline = time.Time{}
			w.follow() // first: what changes after the reload must raise an event
			if w.doubted.Swap(false) {
				w.file.Reload()
			} else if w.file.reloadIfGood() != nil {
				w.doubted.Store(true)
				due.Reset(w.again)
			}
		case <-w.poll:
			w.follow()
			if deadline.IsZero() && w.file.stale() {
				reloadSoon()
			}
		}
	}
}

func (w *watcher) close() {
	if w.events != nil {
		w.events.Close()
	}
}

func (w *watcher) stop() {
	w.close()
	w.file.mu.Lock()
	defer w.file.mu.Unlock()
	w.file.watching, w.file.onChange, w.file.onError = false, nil, nil
}

// follow watches the directories that the file's name leads through now. A
// directory that cannot be watched is left to the poll.
func (w *watcher) follow() {
	if w.events == nil {
		return
	}
	want := directories(w.file.path)
	have := w.events.WatchList()
	for _, dir := range have {
		if !slices.Contains(want, dir) {
			w.events.Remove(dir)
		}
	}
	for _, dir := range want {
		if !slices.Contains(have, dir) {
			w.events.Add(dir)
		}
	}
}

// directories returns the real paths of the directories in which a rename can
// change what path leads to: that of path itself and, where it is a symlink, of
// each link after it, down to the file's own. For Kubernetes' mounted secrets,
// where NAME links to ..data/NAME and ..data to a dated directory, these are the
// mount and the dated directory.
func directories(path string) []string {
	var dirs []string
	for range maxLinks {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			break
		}
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
		target, err := os.Readlink(path)
		if err != nil {
			break // the file itself, or nothing
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		path = target
	}
	return dirs
}
