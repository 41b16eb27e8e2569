package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// A directory that another tenant owns, or that does not say whose it is, is
// refused and left as it is.
func TestOwnerRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		content string
		owner   string
		want    string
	}{
		{"another tenant's", `{"tenant":"beta","id":"00"}`, "beta", "is tenant beta's, not acme's: look at data_dir"},
		{"one whose name begins the same", `{"tenant":"acme-2","id":"00"}`, "acme-2", "is tenant acme-2's"},
		{"empty", "", "", "does not say whose it is"},
		{"no JSON", "acme", "", "does not say whose it is"},
		{"no tenant", `{"id":"00"}`, "", "it names no tenant"},
		{"no id", `{"tenant":"acme"}`, "", "it names no tenant"},
		{"endless", `{"tenant":"acme","id":"` + strings.Repeat("0", maxIdentity), "", "does not say whose it is"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, controlFolder, identityFile)
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{path: tt.content, filepath.Join(dir, "notes.phext"): "theirs"} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Open(Options{Dir: dir, Tenant: "acme", Logger: zap.NewNop(), idle: never})
		var refused *OwnerError
		if !errors.As(err, &refused) || !errors.Is(err, ErrForeign) || refused.Owner != tt.owner || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "remove .sq/owner") {
			t.Errorf("%s: %v, want an OwnerError with %q and what to do", tt.name, err, tt.want)
		}
		if strings.Contains(err.Error(), dir) {
			t.Errorf("%s: the error holds a path: %v", tt.name, err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != tt.content {
			t.Errorf("%s: afterwards it holds %q, %v", tt.name, text, err)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 { // with the lock
			t.Errorf("%s: the refused engine left %v, %v", tt.name, entries, err)
		}
		if report, err := Check(dir); err != nil || report.Damaged() != (tt.owner == "") || report.Tenant != tt.owner {
			t.Errorf("%s: check says %+v, %v", tt.name, report, err)
		}
	}
}

// A link in the identity file's place is not followed.
func TestOwnerLink(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "owner")
	if err := os.WriteFile(other, []byte(`{"tenant":"acme","id":"00"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, controlFolder), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, controlFolder, identityFile)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Dir: dir, Tenant: "acme", Logger: zap.NewNop(), idle: never})
	var refused *OwnerError
	if !errors.As(err, &refused) {
		t.Errorf("%v, want an OwnerError", err)
	}
}

// The first worker of a directory makes it its tenant's; it stays so when it is
// moved, copied or repaired.
func TestOwnerTaken(t *testing.T) {
	open := func(dir, tenant string) error {
		e, err := Open(Options{Dir: dir, Tenant: tenant, Logger: zap.NewNop(), idle: never})
		if err != nil {
			return err
		}
		return e.Close()
	}
	root := t.TempDir()
	dir := filepath.Join(root, "acme")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// Migrated: a document and no worker yet.
	if err := os.WriteFile(filepath.Join(dir, "notes.phext"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(dir, "acme"); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join(dir, controlFolder, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := open(dir, "acme"); err != nil {
		t.Errorf("the second time: %v", err)
	}
	moved, restored, repaired := filepath.Join(root, "moved"), filepath.Join(root, "restored"), filepath.Join(root, "repaired")
	if err := os.CopyFS(restored, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := Repair(dir, repaired); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{moved, restored, repaired} {
		if text, err := os.ReadFile(filepath.Join(dir, controlFolder, identityFile)); err != nil || string(text) != string(first) {
			t.Errorf("%s: its identity is %q, %v; want %q", filepath.Base(dir), text, err, first)
		}
		if err := open(dir, "acme"); err != nil {
			t.Errorf("%s: %v", filepath.Base(dir), err)
		}
		var refused *OwnerError
		if err := open(dir, "beta"); !errors.As(err, &refused) {
			t.Errorf("%s, opened for another tenant: %v", filepath.Base(dir), err)
		}
		if report, err := Check(dir); err != nil || report.Tenant != "acme" || report.Damaged() {
			t.Errorf("%s: check says %+v, %v", filepath.Base(dir), report, err)
		}
	}
}

// A directory that is not the one that the tenant is known to have is refused and
// left as it is: not even the engine's own folder is made in what may be an empty
// mount point.
func TestOwnerAbsent(t *testing.T) {
	open := func(dir, id string) (string, error) {
		e, err := Open(Options{Dir: dir, Tenant: "acme", Owner: id, Logger: zap.NewNop(), idle: never})
		if err != nil {
			return "", err
		}
		return e.Owner(), e.Close()
	}
	root := t.TempDir()
	dir, other := filepath.Join(root, "acme"), filepath.Join(root, "other")
	ids := map[string]string{}
	for _, dir := range []string{dir, other} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		id, err := open(dir, "")
		if err != nil || len(id) != 32 {
			t.Fatalf("%q, %v", id, err)
		}
		if again, err := open(dir, id); err != nil || again != id {
			t.Errorf("with its own id: %q, %v", again, err)
		}
		if again, err := open(dir, ""); err != nil || again != id {
			t.Errorf("with none known: %q, %v", again, err)
		}
		ids[dir] = id
	}
	var refused *OwnerError
	if _, err := open(dir, ids[other]); !errors.Is(err, ErrAbsent) || errors.As(err, &refused) || !strings.Contains(err.Error(), ids[dir]) || !strings.Contains(err.Error(), ids[other]) {
		t.Errorf("another directory of the tenant's: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, controlFolder, identityFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := open(dir, ids[dir]); !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), "it has no .sq/owner") {
		t.Errorf("without its identity file: %v", err)
	}
	empty := t.TempDir()
	if _, err := open(empty, ids[dir]); !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), "is its disk mounted") {
		t.Errorf("emptied: %v", err)
	}
	if entries, err := os.ReadDir(empty); err != nil || len(entries) != 0 {
		t.Errorf("the refused directory holds %v, %v", entries, err)
	}
}
