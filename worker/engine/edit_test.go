package engine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// MustReplaceFile changes a document's file as an editor does.
func MustReplaceFile(tb testing.TB, dir, name, text string) {
	tb.Helper()
	MustWriteFile(tb, dir, ".editor", text)
	if err := os.Rename(filepath.Join(dir, ".editor"), filepath.Join(dir, name)); err != nil {
		tb.Fatal(err)
	}
}

// conflicts returns the texts of the documents that kept unsaved changes.
func conflicts(t *testing.T, e *Engine) (texts []string) {
	t.Helper()
	infos, err := e.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		if strings.Contains(info.Name, ".conflict-") {
			var b bytes.Buffer
			if _, err := MustView(t, e, info.Name).WriteTo(&b); err != nil {
				t.Fatal(err)
			}
			texts = append(texts, b.String())
		}
	}
	return texts
}

func TestFilePlacedByHand(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	MustWriteFile(t, dir, "new.phext", "by hand")
	if got := selectText(t, e, "new", origin); got != "by hand" {
		t.Errorf("a new file reads %q", got)
	}
	// Also where the engine knew the document before.
	MustPut(t, e, "old", origin, "x")
	if _, err := e.Remove(ctx, "old"); err != nil {
		t.Fatal(err)
	}
	MustWriteFile(t, dir, "old.phext", "back")
	if got := selectText(t, e, "old", origin); got != "back" {
		t.Errorf("a file placed after a removal reads %q", got)
	}
	e.abort()
	e = MustOpen(t, dir)
	if got := selectText(t, e, "old", origin); got != "back" {
		t.Errorf("after a crash it reads %q", got)
	}
	MustAppend(t, e, "old", origin, "!")
}

func TestEditWithoutUnsavedChanges(t *testing.T) {
	dir := t.TempDir()
	MustWriteFile(t, dir, "a.phext", "first")
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", origin, "!")
	MustCheckpoint(t, e, "a")
	MustReplaceFile(t, dir, "a.phext", "edited")
	for what, write := range map[string]func() error{
		"Append":  func() error { _, err := e.Append(ctx, "a", phext.Origin, []byte("x"), 0); return err },
		"Put":     func() error { _, err := e.Put(ctx, "a", phext.Origin, []byte("x"), 0); return err },
		"Delete":  func() error { _, err := e.Delete(ctx, "a", phext.Origin); return err },
		"Replace": func() error { _, err := e.Replace(ctx, "a", strings.NewReader("x"), 0); return err },
		"Remove":  func() error { _, err := e.Remove(ctx, "a"); return err },
	} {
		if err := write(); !errors.Is(err, ErrChanged) {
			t.Errorf("%s of an edited document: %v, want ErrChanged", what, err)
		}
	}
	if got := string(MustReadFile(t, dir, "a.phext")); got != "edited" {
		t.Fatalf("the edited file became %q", got)
	}
	if err := e.Reload(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	want := shadow{phext.Origin: "edited"}
	want.check(t, e, "a")
	MustAppend(t, e, "a", origin, "?")
	want[phext.Origin] += "?"
	e.abort()
	e = MustOpen(t, dir)
	want.check(t, e, "a")
	if c := conflicts(t, e); len(c) != 0 {
		t.Errorf("nothing was unsaved, but %q was kept", c)
	}
}

func TestEditWithUnsavedChanges(t *testing.T) {
	dir := t.TempDir()
	MustWriteFile(t, dir, "a.phext", "first")
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", origin, " unsaved")
	MustReplaceFile(t, dir, "a.phext", "edited")
	if err := e.checkpoint(e.docs["a"]); !errors.Is(err, ErrChanged) {
		t.Fatalf("checkpoint over an edited file: %v, want ErrChanged", err)
	}
	shadow{phext.Origin: "first unsaved"}.check(t, e, "a")
	if err := e.Reload(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	check := func(e *Engine) {
		t.Helper()
		shadow{phext.Origin: "edited"}.check(t, e, "a")
		if c := conflicts(t, e); len(c) != 1 || c[0] != "first unsaved" {
			t.Errorf("kept %q, want the unsaved text", c)
		}
	}
	check(e)
	e.abort()
	e = MustOpen(t, dir)
	check(e)
	MustClose(t, e)
	e = MustOpen(t, dir)
	check(e)
}

// TestFreeNameIsNoDocuments: the document that keeps unsaved changes must not be
// one that only the log knows.
func TestFreeNameIsNoDocuments(t *testing.T) {
	e := MustOpen(t, t.TempDir())
	name, err := e.freeName(e.dir, "a", ".conflict-")
	if err != nil {
		t.Fatal(err)
	}
	MustPut(t, e, name, origin, "has no file yet")
	if again, err := e.freeName(e.dir, "a", ".conflict-"); err != nil || again == name {
		t.Errorf("%q is free though it is a document, %v", again, err)
	}
}

// TestConflictCountsOnce: the name under which changes are kept was a document's
// that is gone, which the total still counts.
func TestConflictCountsOnce(t *testing.T) {
	dir := t.TempDir()
	MustWriteFile(t, dir, "a.phext", "first")
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", origin, " unsaved")
	name, err := e.freeName(e.dir, "a", ".conflict-")
	if err != nil {
		t.Fatal(err)
	}
	MustWriteFile(t, dir, name+".phext", "seen, then removed")
	if _, err := e.Stats(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, name+".phext")); err != nil {
		t.Fatal(err)
	}
	MustReplaceFile(t, dir, "a.phext", "edited")
	if err := e.Reload(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	stats, err := e.Stats()
	if want := int64(len("edited") + len("first unsaved")); err != nil || stats.StorageBytes != want {
		t.Errorf("stats count %d bytes, %v; want %d", stats.StorageBytes, err, want)
	}
}

// TestEditAfterCrash: the file is edited, or removed, while no worker runs and
// the log holds changes for the old one.
func TestEditAfterCrash(t *testing.T) {
	for name, tc := range map[string]struct {
		before string // the file before the changes; "" for none
		edit   func(t *testing.T, dir string)
		reads  string
		keeps  string
	}{
		"edited":  {"first", func(t *testing.T, dir string) { MustReplaceFile(t, dir, "a.phext", "edited") }, "edited", " unsaved"},
		"created": {"", func(t *testing.T, dir string) { MustReplaceFile(t, dir, "a.phext", "edited") }, "edited", " unsaved"},
		"removed": {"first", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "a.phext")) }, "", " unsaved"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.before != "" {
				MustWriteFile(t, dir, "a.phext", tc.before)
			}
			e := MustOpen(t, dir)
			MustAppend(t, e, "a", origin, " unsaved")
			e.abort()
			tc.edit(t, dir)
			for range 2 { // closing must not lose them either
				e = MustOpen(t, dir)
				if got := selectText(t, e, "a", origin); got != tc.reads {
					t.Errorf("reads %q, want %q", got, tc.reads)
				}
				if _, err := e.Append(ctx, "a", phext.Origin, []byte("x"), 0); !errors.Is(err, ErrChanged) {
					t.Errorf("write: %v, want ErrChanged", err)
				}
				MustPut(t, e, "other", origin, "goes on")
				MustClose(t, e)
			}
			e = MustOpen(t, dir)
			if err := e.Reload(ctx, "a"); err != nil {
				t.Fatal(err)
			}
			if c := conflicts(t, e); len(c) != 1 || c[0] != tc.keeps {
				t.Errorf("kept %q, want %q", c, tc.keeps)
			}
			MustAppend(t, e, "a", origin, "!")
			e.abort()
			e = MustOpen(t, dir)
			if got := selectText(t, e, "a", origin); got != tc.reads+"!" {
				t.Errorf("after all it reads %q, want %q", got, tc.reads+"!")
			}
		})
	}
}

// TestEditAfterCleanCrash: the log still holds changes, but the file has them
// all, so an edit contradicts nothing.
func TestEditAfterCleanCrash(t *testing.T) {
	dir := t.TempDir()
	MustWriteFile(t, dir, "a.phext", "first")
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", origin, " second")
	MustCheckpoint(t, e, "a")
	e.abort()
	// Even where the edit brings back the file that the changes were made to.
	for _, text := range []string{"edited", "first"} {
		image := CopyDir(t, dir)
		MustReplaceFile(t, image, "a.phext", text)
		e = MustOpen(t, image)
		shadow{phext.Origin: text}.check(t, e, "a")
		MustAppend(t, e, "a", origin, "!")
		e.abort()
		e = MustOpen(t, image)
		shadow{phext.Origin: text + "!"}.check(t, e, "a")
	}
}

// TestOldFileBroughtBack: a person puts an earlier version back while the log
// holds changes for a later one. They must not be applied to it.
func TestOldFileBroughtBack(t *testing.T) {
	dir := t.TempDir()
	MustWriteFile(t, dir, "a.phext", "first")
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", origin, " second")
	MustCheckpoint(t, e, "a")
	MustAppend(t, e, "a", origin, " third")
	e.abort()
	MustReplaceFile(t, dir, "a.phext", "first")
	e = MustOpen(t, dir)
	shadow{phext.Origin: "first"}.check(t, e, "a")
	if err := e.Reload(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if c := conflicts(t, e); len(c) != 1 || c[0] != " third" {
		t.Errorf("kept %q, want the unsaved text", c)
	}
}

func TestReloadOfBadFileKeepsTheOld(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	MustPut(t, e, "a", origin, "good")
	MustCheckpoint(t, e, "a")
	MustReplaceFile(t, dir, "a.phext", "bad\xff")
	var bad *DocumentError
	if err := e.Reload(ctx, "a"); !errors.As(err, &bad) {
		t.Fatalf("Reload: %v, want a DocumentError", err)
	}
	shadow{phext.Origin: "good"}.check(t, e, "a")
	MustReplaceFile(t, dir, "a.phext", "repaired")
	if err := e.Reload(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	shadow{phext.Origin: "repaired"}.check(t, e, "a")
}

// TestTruncatedMappingIsAnError: a person empties a large file in place while
// the engine has it mapped.
func TestTruncatedMappingIsAnError(t *testing.T) {
	dir := t.TempDir()
	MustWriteFile(t, dir, "a.phext", strings.Repeat("x", 4<<20))
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", "2.1.1/1.1.1/1.1.1", "y")
	if err := os.Truncate(filepath.Join(dir, "a.phext"), 0); err != nil {
		t.Fatal(err)
	}
	// A checksum that could not be computed must not be remembered as one.
	for range 2 {
		var sum string
		if err := guard(func() error { sum = MustView(t, e, "a").Checksum(); return nil }); err == nil {
			t.Errorf("the checksum of a truncated file is %q", sum)
		}
	}
	if err := e.checkpoint(e.docs["a"]); err == nil {
		t.Error("a checkpoint of a truncated file succeeded")
	}
	if err := e.Reload(ctx, "a"); err == nil {
		t.Error("the truncated file's changes were saved")
	}
	MustPut(t, e, "b", origin, "goes on")
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	MustPut(t, e, "a", origin, "old")
	for name, tc := range map[string]struct {
		body   string
		offset int64
	}{
		"invalid UTF-8":           {"abc\xff", 3},
		"coordinate beyond 65535": {strings.Repeat("\x17", 65535), 65534},
	} {
		var text *phext.TextError
		if _, err := e.Replace(ctx, "a", strings.NewReader(tc.body), 0); !errors.As(err, &text) || text.Offset != tc.offset {
			t.Errorf("%s: %v, want a TextError at %d", name, err, tc.offset)
		}
	}
	var full *QuotaError
	if _, err := e.Replace(ctx, "a", strings.NewReader("too long"), 5); !errors.As(err, &full) {
		t.Errorf("beyond the quota: %v, want a QuotaError", err)
	}
	failing := errors.New("client went away")
	if _, err := e.Replace(ctx, "a", &failingReader{strings.NewReader("half"), failing}, 0); !errors.Is(err, failing) {
		t.Errorf("body that fails: %v, want its error", err)
	}
	shadow{phext.Origin: "old"}.check(t, e, "a")

	text := "odd\x18\x17\x18" // kept byte for byte
	r, err := e.Replace(ctx, "a", strings.NewReader(text), 6)
	if err != nil || r.Bytes != int64(len(text)) {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := string(MustReadFile(t, dir, "a.phext")); got != text {
		t.Errorf("the file is %q, want %q", got, text)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, controlFolder, tempPrefix+"*")); len(left) != 0 {
		t.Errorf("temporary files are left: %v", left)
	}
	e.abort()
	e = MustOpen(t, dir)
	if v := MustView(t, e, "a"); v.Bytes() != int64(len(text)) || string(v.Select(phext.Origin)) != "odd" {
		t.Errorf("after a crash it has %d bytes", v.Bytes())
	}
}

type failingReader struct {
	r   *strings.Reader
	err error
}

func (f *failingReader) Read(p []byte) (int, error) {
	if f.r.Len() == 0 {
		return 0, f.err
	}
	return f.r.Read(p)
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	if _, err := e.Remove(ctx, "a"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("removal of nothing: %v, want ErrNotFound", err)
	}
	for range 3 { // within one second, so that names meet
		MustPut(t, e, "a", origin, "text")
		old := MustView(t, e, "a")
		r, err := e.Remove(ctx, "a")
		if err != nil || r.Bytes != 4 {
			t.Fatalf("%+v, %v", r, err)
		}
		if v := MustView(t, e, "a"); v.Exists() || v.Bytes() != 0 {
			t.Error("the document exists after its removal")
		}
		if string(old.Select(phext.Origin)) != "text" {
			t.Error("a view changed under its reader")
		}
	}
	trash, _ := filepath.Glob(filepath.Join(dir, trashFolder, "a-*.phext"))
	if len(trash) != 3 || string(MustReadFile(t, trash[0])) != "text" {
		t.Errorf("the trash holds %v", trash)
	}
	if _, err := e.Remove(ctx, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("second removal: %v, want ErrNotFound", err)
	}
	stats, err := e.Stats()
	if err != nil || stats.StorageBytes != 0 || stats.Documents != 0 {
		t.Errorf("after the removal stats are %+v, %v", stats, err)
	}
	e.abort()
	e = MustOpen(t, dir)
	if v := MustView(t, e, "a"); v.Exists() {
		t.Error("the document is back after a crash")
	}
}
