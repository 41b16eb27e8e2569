package owners

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	id1 = "00112233445566778899aabbccddeeff"
	id2 = "ffeeddccbbaa99887766554433221100"
)

func all(string) bool { return true }

func line(tenant, id string) string { return fmt.Sprintf("{\"tenant\":%q,\"id\":%q}\n", tenant, id) }

func mustWrite(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "tenants.owners.jsonl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustOpen(t *testing.T, path string, keep func(string) bool) *Book {
	t.Helper()
	b, err := Open(path, keep)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func mustSet(t *testing.T, b *Book, tenant, id string) {
	t.Helper()
	if err := b.SetID(tenant, id); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBadLines(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no JSON", "acme\n", "line 1: not an object"},
		{"empty line", line("a", id1) + "\n", "line 2: not an object"},
		{"in the middle", line("a", id1) + `{"tenant":"b"` + "\n" + line("c", id1), "line 2: not an object"},
		{"zeros in the middle", line("a", id1) + "\x00\x00\n" + line("c", id1), "line 2: not an object"},
		{"two objects", `{"tenant":"a"} {"tenant":"b"}` + "\n", "line 1: more than one object"},
		{"a brace too many", `{"tenant":"a"}}` + "\n", "line 1: more than one object"},
		{"over two lines", `{"tenant":` + "\n" + `"a"}` + "\n", "line 1: not an object"},
		{"empty first line", "\n" + line("a", id1), "line 1: not an object"},
		{"another field", `{"tenant":"a","quota":1}` + "\n", `line 1: not an object of tenant, id and uid`},
		{"no tenant", `{"id":"` + id1 + `"}` + "\n", "line 1: tenant:"},
		{"no name of a tenant", `{"tenant":"../a"}` + "\n", "line 1: tenant:"},
		{"short id", line("a", "0011"), "line 1: id: want 32 hex digits"},
		{"upper case", line("a", strings.ToUpper(id2)), "line 1: id: want 32 hex digits"},
		{"no hex", line("a", strings.Repeat("g", 32)), "line 1: id: want 32 hex digits"},
	} {
		path := mustWrite(t, tt.text)
		b, err := Open(path, all)
		if b != nil || err == nil || !strings.Contains(err.Error(), path+": "+tt.want) {
			t.Errorf("%s: %v, %v; want %s", tt.name, b, err, tt.want)
		}
		if mustRead(t, path) != tt.text {
			t.Errorf("%s: the file was changed", tt.name)
		}
	}
}

func TestLastLineWins(t *testing.T) {
	path := mustWrite(t, line("a", id1)+line("b", id1)+line("a", id2)+`{"tenant":"b"}`+"\n"+line("gone", id1))
	b := mustOpen(t, path, func(tenant string) bool { return tenant != "gone" })
	for tenant, want := range map[string]string{"a": id2, "b": "", "gone": "", "c": ""} {
		if got := b.ID(tenant); got != want {
			t.Errorf("%s has %q, want %q", tenant, got, want)
		}
	}
	if got := mustRead(t, path); got != line("a", id2) {
		t.Errorf("the file is %q", got)
	}
}

// What a crash leaves of a last line is dropped, wherever it was cut, and what is
// recorded next is a line of its own.
func TestTornLastLine(t *testing.T) {
	whole := line("a", id1) + line("b", id2)
	for cut := len(line("a", id1)); cut <= len(whole); cut++ {
		for _, tail := range []string{"", "\x00\x00\x00"} {
			path := mustWrite(t, whole[:cut]+tail)
			b, err := Open(path, all)
			if cut == len(whole)-1 && tail == "" || cut == len(whole) {
				if err != nil || b.ID("b") != id2 {
					t.Errorf("cut at %d, %q: %v, a whole line is lost", cut, tail, err)
				}
			} else if err != nil || b.ID("b") != "" {
				t.Errorf("cut at %d, %q: %v", cut, tail, err)
			}
			if err != nil {
				continue
			}
			mustSet(t, b, "c", id2)
			b.Close()
			again := mustOpen(t, path, all)
			if again.ID("a") != id1 || again.ID("c") != id2 {
				t.Errorf("cut at %d, %q: the file became %q", cut, tail, mustRead(t, path))
			}
		}
	}
}

func TestRecordAndForget(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tenants.owners.jsonl")
	b := mustOpen(t, path, all)
	mustSet(t, b, "a", id1)
	mustSet(t, b, "a", id1)
	mustSet(t, b, "b", id2)
	if err := b.SetID("c", "id"); err == nil {
		t.Error("a bad id was recorded")
	}
	if err := b.Forget("a", func() bool { return false }); err != nil || b.ID("a") != id1 {
		t.Errorf("a tenant that is still one was forgotten: %v", err)
	}
	if err := b.Forget("a", func() bool { return true }); err != nil || b.ID("a") != "" {
		t.Errorf("not forgotten: %v", err)
	}
	if got, want := mustRead(t, path), line("a", id1)+line("b", id2)+`{"tenant":"a"}`+"\n"; got != want {
		t.Errorf("the file is %q, want %q", got, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	var none *Book
	if err := errors.Join(none.SetID("a", id1), none.Forget("a", nil)); err != nil || none.ID("a") != "" {
		t.Errorf("a nil book: %v", err)
	}
}

// Recording appends, however much there is, and the next start compacts.
func TestGrowthAndCompaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tenants.owners.jsonl")
	b := mustOpen(t, path, all)
	inode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	before := inode()
	for n := range slack + 10 {
		mustSet(t, b, "a", fmt.Sprintf("%032x", n))
	}
	if text := mustRead(t, path); strings.Count(text, "\n") != slack+10 || inode() != before {
		t.Errorf("%d lines, written anew: %t", strings.Count(text, "\n"), inode() != before)
	}
	b.Close()
	want := fmt.Sprintf("%032x", slack+9)
	if b = mustOpen(t, path, all); b.ID("a") != want || mustRead(t, path) != line("a", want) {
		t.Errorf("a has %q and the file is %.200q", b.ID("a"), mustRead(t, path))
	}
	// A replacement that a crash left half written is no obstacle.
	if err := os.WriteFile(path+".tmp", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Close()
	mustOpen(t, path, func(string) bool { return false })
	if text := mustRead(t, path); text != "" {
		t.Errorf("the file is %q", text)
	}
}

// Nothing but a regular file is opened, and no link followed.
func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	link, pipe, folder := filepath.Join(dir, "link"), filepath.Join(dir, "pipe"), filepath.Join(dir, "folder")
	if err := errors.Join(os.Symlink(mustWrite(t, ""), link), unix.Mkfifo(pipe, 0o600), os.Mkdir(folder, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, pipe, folder} {
		if b, err := Open(path, all); err == nil {
			b.Close()
			t.Errorf("%s was opened", filepath.Base(path))
		}
	}
}

// BenchmarkFirstWakes records tenants that are new, each on its own, as their
// workers do.
func BenchmarkFirstWakes(b *testing.B) {
	book, err := Open(filepath.Join(b.TempDir(), "tenants.owners.jsonl"), all)
	if err != nil {
		b.Fatal(err)
	}
	defer book.Close()
	n := 0
	for b.Loop() {
		if err := book.SetID(fmt.Sprintf("t%d", n), id1); err != nil {
			b.Fatal(err)
		}
		n++
	}
}
