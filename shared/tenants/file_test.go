package tenants

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

// file returns a valid tenants.json whose tenants have the given ids.
func file(ids ...string) string {
	var b strings.Builder
	b.WriteString("{\n  \"admin_key\": \"admin-key\",\n  \"tenants\": [")
	for i, id := range ids {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "\n    {\"id\": %q, \"api_key\": %q, \"data_dir\": \"/d/%s\"}", id, "key-of-"+id, id)
	}
	b.WriteString("\n  ]\n}\n")
	return b.String()
}

func MustWrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// MustReplace saves as editors do that rename a new file over the old one.
func MustReplace(t testing.TB, path, text string) {
	t.Helper()
	MustWrite(t, path+".new", text)
	MustDo(t, os.Rename(path+".new", path))
}

func MustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func MustRead(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	MustDo(t, err)
	return string(text)
}

// MustCreate returns the open file of a new tenants.json.
func MustCreate(t testing.TB, text string) *File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tenants.json")
	MustWrite(t, path, text)
	return MustOpen(t, path)
}

func MustOpen(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path)
	MustDo(t, err)
	return f
}

// has reports whether r has exactly the tenants ids, by key and by id.
func has(r *Registry, ids ...string) bool {
	for _, id := range ids {
		if t, _ := r.ByKey("key-of-" + id); t == nil || t != r.ByID(id) {
			return false
		}
	}
	return len(r.Tenants()) == len(ids)
}

func TestOpenInvalid(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	MustDo(t, os.Mkdir(path("folder"), 0o700))
	MustDo(t, syscall.Mkfifo(path("pipe"), 0o600))
	MustDo(t, os.Symlink("loop", path("loop")))
	MustWrite(t, path("bad"), "{\n\"admin_key\": 1}")
	MustWrite(t, path("huge"), "")
	MustDo(t, os.Truncate(path("huge"), MaxFileBytes+1))
	tests := []struct{ name, message string }{
		{"missing", path("missing") + ": open: no such file or directory: set SQ_CONFIG to the tenants file, or make it from deploy/tenants.json.example"},
		{"folder", "load tenants: " + path("folder") + ": not a regular file"},
		{"pipe", "load tenants: " + path("pipe") + ": not a regular file"},
		{"loop", "load tenants: " + path("loop") + ": open: too many levels of symbolic links"},
		{"bad", "load tenants: " + path("bad") + ":2:14: admin_key must be a string, not a number"},
		{"huge", "load tenants: " + path("huge") + ": larger than 67108864 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f, err := Open(path(test.name))
			if f != nil || err == nil || err.Error() != test.message {
				t.Errorf("Open returned %v, %v\nwant %s", f, err, test.message)
			}
		})
	}
}

// watched is a file and what its watch told.
type watched struct {
	*File
	changes chan [2]*Registry
	faults  chan error
}

// MustWatch watches f by events alone or by polls alone, since each would hide
// that the other fails.
func MustWatch(t *testing.T, f *File, events bool) watched {
	t.Helper()
	w := watched{f, make(chan [2]*Registry, 1000), make(chan error, 1000)}
	source := &watcher{file: f}
	if events {
		var err error
		source.events, err = fsnotify.NewWatcher()
		MustDo(t, err)
	} else {
		source.poll = time.Tick(pollEvery)
	}
	MustDo(t, f.watch(t.Context(), source,
		func(old, new *Registry) { w.changes <- [2]*Registry{old, new} },
		func(err error) { w.faults <- err }))
	return w
}

// MustTell returns the next value of c.
func MustTell[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second): // only when the test fails
		t.Fatal("the watch told nothing")
		panic("unreachable")
	}
}

func TestWatchSaveStyles(t *testing.T) {
	// Each style makes a folder in which tenants.json leads to old, and saves new
	// over it.
	styles := []struct {
		name string
		make func(t *testing.T, dir, old string)
		save func(t *testing.T, dir, new string)
	}{
		{"write in place", makePlain, func(t *testing.T, dir, new string) {
			MustWrite(t, dir+"/tenants.json", new)
		}},
		{"write in place, byte by byte", makePlain, func(t *testing.T, dir, new string) {
			f, err := os.OpenFile(dir+"/tenants.json", os.O_WRONLY|os.O_TRUNC, 0)
			MustDo(t, err)
			defer f.Close()
			for i := range len(new) {
				_, err := f.WriteString(new[i : i+1])
				MustDo(t, err)
			}
		}},
		{"rename over", makePlain, func(t *testing.T, dir, new string) {
			MustReplace(t, dir+"/tenants.json", new)
		}},
		{"backup, then a new file", makePlain, func(t *testing.T, dir, new string) {
			MustDo(t, os.Rename(dir+"/tenants.json", dir+"/tenants.json~"))
			MustWrite(t, dir+"/tenants.json", new)
		}},
		{"same size and modification time", makePlain, func(t *testing.T, dir, new string) {
			info, err := os.Stat(dir + "/tenants.json")
			MustDo(t, err)
			MustWrite(t, dir+"/tenants.json", new)
			MustDo(t, os.Chtimes(dir+"/tenants.json", time.Time{}, info.ModTime()))
		}},
		{"folder swapped", makePlain, func(t *testing.T, dir, new string) {
			MustDo(t, os.Mkdir(dir+".new", 0o700))
			MustWrite(t, dir+".new/tenants.json", new)
			MustDo(t, os.Rename(dir, dir+".old"))
			MustDo(t, os.Rename(dir+".new", dir))
		}},
		{"symlink, target written", makeLink, func(t *testing.T, dir, new string) {
			MustWrite(t, dir+"/real/conf.json", new)
		}},
		{"symlink, target renamed over", makeLink, func(t *testing.T, dir, new string) {
			MustReplace(t, dir+"/real/conf.json", new)
		}},
		{"symlink swapped", makeLink, func(t *testing.T, dir, new string) {
			MustWrite(t, dir+"/other.json", new)
			MustDo(t, os.Symlink("other.json", dir+"/link.new"))
			MustDo(t, os.Rename(dir+"/link.new", dir+"/tenants.json"))
		}},
		{"Kubernetes", func(t *testing.T, dir, old string) {
			makeVolume(t, dir, "..1", old)
			MustDo(t, os.Symlink("..1", dir+"/..data"))
			MustDo(t, os.Symlink("..data/tenants.json", dir+"/tenants.json"))
		}, func(t *testing.T, dir, new string) {
			makeVolume(t, dir, "..2", new)
			MustDo(t, os.Symlink("..2", dir+"/..data_tmp"))
			MustDo(t, os.Rename(dir+"/..data_tmp", dir+"/..data"))
			MustDo(t, os.RemoveAll(dir+"/..1"))
		}},
	}
	for _, style := range styles {
		for _, events := range []bool{true, false} {
			if events && style.name == "folder swapped" {
				continue // happens in the folder above, which has events of its own
			}
			t.Run(fmt.Sprintf("%s/events=%v", style.name, events), func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "sq")
				MustDo(t, os.Mkdir(dir, 0o700))
				style.make(t, dir, file("a", "b"))
				w := MustWatch(t, MustOpen(t, dir+"/tenants.json"), events)
				old := w.Registry()
				if !has(old, "a", "b") {
					t.Fatal("tenants are missing before the save")
				}
				style.save(t, dir, file("a", "c"))
				change := MustTell(t, w.changes)
				if change[0] != old || change[1] != w.Registry() || !has(change[1], "a", "c") {
					t.Error("the change is not from the old registry to the new one in force")
				}
				// And once more: the watch follows where the name leads now.
				MustWrite(t, dir+"/tenants.json", file("d"))
				if change = MustTell(t, w.changes); !has(change[1], "d") {
					t.Error("the second save is not in force")
				}
			})
		}
	}
}

func makePlain(t *testing.T, dir, old string) { MustWrite(t, dir+"/tenants.json", old) }

func makeLink(t *testing.T, dir, old string) {
	MustDo(t, os.Mkdir(dir+"/real", 0o700))
	MustWrite(t, dir+"/real/conf.json", old)
	MustDo(t, os.Symlink("real/conf.json", dir+"/tenants.json"))
}

func makeVolume(t *testing.T, dir, volume, text string) {
	MustDo(t, os.Mkdir(filepath.Join(dir, volume), 0o700))
	MustWrite(t, filepath.Join(dir, volume, "tenants.json"), text)
}

func TestWatchSeesChangeSinceOpen(t *testing.T) {
	f := MustCreate(t, file("a"))
	MustReplace(t, f.path, file("a", "b"))
	w := MustWatch(t, f, true)
	if !has(w.Registry(), "a", "b") || len(w.changes) != 1 {
		t.Error("a change made before Watch is not in force when it returns")
	}
	if err := f.Watch(t.Context(), nil, nil); err == nil {
		t.Error("a second watch began")
	}
}

func TestWatchEnds(t *testing.T) {
	f := MustCreate(t, file("a"))
	ctx, cancel := context.WithCancel(t.Context())
	MustDo(t, f.Watch(ctx, func(_, _ *Registry) { t.Error("callback of the ended watch") }, nil))
	cancel()
	// A new watch begins once the old one is gone.
	for f.watch(t.Context(), &watcher{file: f}, nil, nil) != nil {
		runtime.Gosched()
	}
	MustReplace(t, f.path, file("a", "b"))
	MustDo(t, f.Reload())
}

func TestBadFileKeepsLastGood(t *testing.T) {
	for _, events := range []bool{true, false} {
		t.Run(fmt.Sprintf("events=%v", events), func(t *testing.T) {
			w := MustWatch(t, MustCreate(t, file("a", "b")), events)
			good := w.Registry()
			loaded := w.Status()
			if loaded.Path != w.path || loaded.LoadedAt.IsZero() || loaded.LastError != "" || loaded.Tenants != 2 {
				t.Errorf("status of a good file is %+v", loaded)
			}
			bad := []struct {
				spoil        func()
				line, column int
				message      string
			}{
				{func() { MustReplace(t, w.path, `{"admin_key": "`+secrets[0]+`"`) }, 1, 29, "file is not valid JSON: unexpected end of JSON input"},
				{func() {
					MustReplace(t, w.path, `{"admin_key": "`+secrets[0]+`", "tenants": [{"id": "`+secrets[1]+`"}]}`)
				}, 1, 50, "tenants[0].id: tenant id has a character other than a-z, 0-9 and hyphen at byte 1"},
				{func() { MustDo(t, os.Remove(w.path)) }, 0, 0, "open: no such file or directory"},
				{func() { MustDo(t, os.Mkdir(w.path, 0o700)) }, 0, 0, "not a regular file"},
			}
			for _, test := range bad {
				test.spoil()
				err := MustTell(t, w.faults)
				fault, ok := errors.AsType[*FileError](err)
				if !ok || fault.Path != w.path || fault.Line != test.line || fault.Column != test.column || fault.Err.Error() != test.message {
					t.Errorf("fault is %v, want %s:%d:%d: %s", err, w.path, test.line, test.column, test.message)
				}
				status := w.Status()
				if !strings.HasSuffix(status.LastError, test.message) || strings.Contains(status.LastError, w.path) ||
					status.LoadedAt != loaded.LoadedAt || status.Tenants != 2 {
					t.Errorf("status of a bad file is %+v", status)
				}
				if leaks(err.Error()) || leaks(fmt.Sprintf("%+v", status)) {
					t.Error("a key is told")
				}
				if again := w.Reload(); again == nil || again.Error() != err.Error() {
					t.Errorf("Reload of the same bad file: %v", again)
				}
			}
			if w.Registry() != good || len(w.changes) != 0 {
				t.Error("the last good registry is not in force")
			}
			if len(w.faults) != 0 {
				t.Errorf("a fault was told twice: %v", <-w.faults)
			}
			MustDo(t, os.Remove(w.path))
			MustWrite(t, w.path, file("a"))
			if change := MustTell(t, w.changes); !has(change[1], "a") {
				t.Error("the mended file is not in force")
			}
			if status := w.Status(); status.LastError != "" || status.Tenants != 1 || status.LoadedAt.Equal(loaded.LoadedAt) {
				t.Errorf("status of the mended file is %+v", status)
			}
		})
	}
}

// TestHalfWrittenFileIsNoFault: the watch reads the file between the two writes
// of an editor that writes in place.
func TestHalfWrittenFileIsNoFault(t *testing.T) {
	f := MustCreate(t, file("a"))
	source := &watcher{file: f, again: time.Hour} // until the second write is seen
	var err error
	source.events, err = fsnotify.NewWatcher()
	MustDo(t, err)
	changes, faults := make(chan *Registry, 10), make(chan error, 10)
	MustDo(t, f.watch(t.Context(), source, func(_, new *Registry) { changes <- new }, func(err error) { faults <- err }))
	for _, ids := range [][]string{{"a", "b"}, {"b"}, {"a", "b", "c"}} {
		whole := file(ids...)
		editor, err := os.OpenFile(f.path, os.O_WRONLY|os.O_TRUNC, 0)
		MustDo(t, err)
		_, err = editor.WriteString(whole[:len(whole)/2])
		MustDo(t, err)
		deadline := time.Now().Add(30 * time.Second)
		for !source.doubted.Load() {
			if time.Now().After(deadline) {
				t.Fatal("the watch did not read the half")
			}
			time.Sleep(time.Millisecond)
		}
		_, err = editor.WriteString(whole[len(whole)/2:])
		MustDo(t, errors.Join(err, editor.Close()))
		if got := MustTell(t, changes); !has(got, ids...) {
			t.Errorf("in force is %v, want %v", got.Tenants(), ids)
		}
	}
	if len(faults) != 0 || f.Status().LastError != "" {
		t.Errorf("a half of the file counts as a fault: %v", <-faults)
	}
}

func TestReloadTellsEffectiveChangesOnly(t *testing.T) {
	w := MustWatch(t, MustCreate(t, file("a", "b")), true)
	r := w.Registry()
	for _, text := range []string{
		strings.ReplaceAll(file("a", "b"), "\n", "\r\n"),
		strings.Replace(file("b", "a"), "{", `{"unknown": 1, `, 1),
		strings.ReplaceAll(file("a", "b"), `"id"`, `"enabled": true, "quota_mb": 0, "id"`),
	} {
		MustReplace(t, w.path, text)
		MustDo(t, w.Reload())
		if len(w.changes) != 0 || w.Registry() != r {
			t.Fatalf("a change was told that is none:\n%s", text)
		}
	}
	for i, text := range []string{
		strings.Replace(file("a", "b"), "admin-key", "admin-new", 1),
		strings.Replace(file("a", "b"), "key-of-a", "key-of-x", 1),
		strings.Replace(file("a", "b"), "/d/a", "/d/x", 1),
		strings.Replace(file("a", "b"), `"id"`, `"enabled": false, "id"`, 1),
		strings.Replace(file("a", "b"), `"id"`, `"quota_mb": 7, "id"`, 1),
		file("a"),
	} {
		before := w.Registry()
		MustReplace(t, w.path, text)
		MustDo(t, w.Reload())
		if len(w.changes) != 1 {
			t.Fatalf("change %d was told %d times", i, len(w.changes))
		}
		if change := <-w.changes; change[0] != before || change[1] != w.Registry() {
			t.Errorf("change %d is not from the registry before to the one in force", i)
		}
	}
}

func TestFileErrorUnwraps(t *testing.T) {
	f := MustCreate(t, file())
	MustDo(t, os.Remove(f.path))
	if err := f.Reload(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v is not fs.ErrNotExist", err)
	}
}

func BenchmarkReload10000(b *testing.B) {
	texts := [][]byte{many(10000), many(10000)}
	f := MustCreate(b, string(texts[0]))
	for i := 0; b.Loop(); i++ {
		MustDo(b, os.WriteFile(f.path, bytes.Clone(texts[i%2]), 0o600))
		MustDo(b, f.Reload())
	}
}
