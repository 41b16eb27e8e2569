package engine

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// TestForeignThingsInTheDataDirectory: whatever has the name of a folder or file
// of the engine's own, it is not used, and what it leads to is not touched.
func TestForeignThingsInTheDataDirectory(t *testing.T) {
	tests := []struct {
		name  string
		plant func(at, theirs string) error
	}{
		{"link", func(at, theirs string) error { return os.Symlink(theirs, at) }},
		{"dangling link", func(at, theirs string) error { return os.Symlink(theirs+"-not", at) }},
		{"pipe", func(at, _ string) error { return unix.Mkfifo(at, 0o600) }},
		{"socket", func(at, _ string) error { return unix.Mknod(at, unix.S_IFSOCK|0o600, 0) }},
	}
	file := func(at, _ string) error { return os.WriteFile(at, nil, 0o600) }
	folder := func(at, _ string) error { return os.Mkdir(at, 0o700) }
	for _, own := range []struct {
		file   string // relative to the data directory; "log" is the log's segment
		folder bool
	}{{".sq", true}, {".sq/lock", false}, {"log", false}, {".trash", true}} {
		odd := append(slices.Clone(tests), struct {
			name  string
			plant func(at, theirs string) error
		}{"file", file})
		if !own.folder {
			odd[len(odd)-1].name, odd[len(odd)-1].plant = "folder", folder
		}
		for _, tt := range odd {
			t.Run(own.file+"/"+tt.name, func(t *testing.T) {
				root := t.TempDir()
				ours, theirs := filepath.Join(root, "ours"), filepath.Join(root, "theirs")
				for _, dir := range []string{ours, theirs} {
					if err := os.Mkdir(dir, 0o700); err != nil {
						t.Fatal(err)
					}
					e, err := Open(Options{Dir: dir, Tenant: "test", Logger: zap.NewNop()})
					if err != nil {
						t.Fatal(err)
					}
					MustPut(t, e, "doc", "1.1.1/1.1.1/1.1.1", "text of "+filepath.Base(dir))
					if err := e.Close(); err != nil {
						t.Fatal(err)
					}
				}
				name := own.file
				if name == "log" {
					name = filepath.Join(".sq", filepath.Base(segments(t, ours)[0]))
				}
				at, aim := filepath.Join(ours, name), filepath.Join(theirs, name)
				if own.file == ".trash" {
					aim = theirs
				}
				if err := errors.Join(os.RemoveAll(at), tt.plant(at, aim)); err != nil {
					t.Fatal(err)
				}
				before := mustTree(t, theirs)
				e, err := Open(Options{Dir: ours, Tenant: "test", Logger: zap.NewNop()})
				if own.file == ".trash" {
					if err != nil {
						t.Fatal(err)
					}
					_, err = e.Remove(ctx, "doc")
					if got := selectText(t, e, "doc", "1.1.1/1.1.1/1.1.1"); got != "text of ours" {
						t.Errorf("the document holds %q", got)
					}
				}
				if !errors.Is(err, ErrForeign) {
					t.Errorf("error %v, want ErrForeign", err)
				}
				if e != nil {
					if err := e.Close(); err != nil {
						t.Error(err)
					}
				}
				if after := mustTree(t, theirs); !slices.Equal(after, before) {
					t.Errorf("the other directory changed from %q to %q", before, after)
				}
			})
		}
	}
}

// mustTree lists a directory's files with their contents.
func mustTree(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			list = append(list, path+" "+string(MustReadFile(t, path)))
		} else if err == nil {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
