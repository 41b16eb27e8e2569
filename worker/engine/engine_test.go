package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/phext"
)

func sortScrolls(s []phext.Scroll) {
	slices.SortFunc(s, func(a, b phext.Scroll) int { return a.At.Compare(b.At) })
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	want := shadow{}
	for i, step := range []struct {
		kind  opKind
		at    string
		text  string
		bytes int64
	}{
		{opDelete, "1.1.1/1.1.1/1.1.1", "", 0},
		{opAppend, "1.1.1/1.1.1/1.1.2", "", 0},
		{opPut, "2.1.1/1.1.1/1.1.1", "later", 5},
		{opPut, "1.1.1/1.1.1/1.1.2", "earlier", 7},
		{opAppend, "1.1.1/1.1.1/1.1.2", " and more", 9},
		{opAppend, "1.1.1/1.1.1/1.1.2", " and more", 9},
		{opPut, "65535.65535.65535/65535.65535.65535/65535.65535.65535", "last", 4},
		{opPut, "65535.65535.65535/65535.65535.65535/65535.65535.65534", "𝔘nicode ☃", 14},
		{opPut, "2.1.1/1.1.1/1.1.1", "", 0},
		{opDelete, "1.1.1/1.1.1/1.1.2", "", 25},
		{opAppend, "1.1.1/1.1.1/1.1.2", "again", 5},
		{opDelete, "65535.65535.65535/65535.65535.65535/65535.65535.65535", "", 4},
	} {
		at := MustCoordinate(t, step.at)
		var r Result
		var err error
		switch step.kind {
		case opAppend:
			r, err = e.Append(ctx, "notes", at, []byte(step.text), 0)
			want[at] += step.text
		case opPut:
			r, err = e.Put(ctx, "notes", at, []byte(step.text), 0)
			want[at] = step.text
		case opDelete:
			r, err = e.Delete(ctx, "notes", at)
			want[at] = ""
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.Bytes != step.bytes {
			t.Errorf("step %d: %d bytes, want %d", i, r.Bytes, step.bytes)
		}
		want.check(t, e, "notes")
	}
	MustClose(t, e)
	if got := MustReadFile(t, dir, "notes.phext"); !bytes.Equal(got, want.document()) {
		t.Fatalf("the file is %q, want %q", clip(got), clip(want.document()))
	}
	e = MustOpen(t, dir)
	want.check(t, e, "notes")
}

func TestReadsCreateNothing(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	v := MustView(t, e, "nothing")
	if v.Exists() || v.Bytes() != 0 || v.Count() != 0 || v.Select(phext.Origin) != nil || v.Checksum() != phext.Checksum(nil) {
		t.Error("a missing document is not an empty view")
	}
	for _, err := range []error{
		e.Reload(ctx, "nothing"),
		func() error { _, err := e.Delete(ctx, "nothing", phext.Origin); return err }(),
		func() error { _, err := e.Put(ctx, "nothing", phext.Origin, nil, 0); return err }(),
		func() error { _, err := e.Append(ctx, "nothing", phext.Origin, nil, 0); return err }(),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	MustClose(t, e)
	names, err := filepath.Glob(filepath.Join(dir, "*.phext"))
	if err != nil || len(names) != 0 {
		t.Errorf("the data directory holds %v (%v), want nothing", names, err)
	}
	if _, err := e.View("nothing"); !errors.Is(err, ErrClosed) {
		t.Errorf("view of a closed engine: %v, want ErrClosed", err)
	}
	if _, err := e.Put(ctx, "nothing", phext.Origin, []byte("x"), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("put into a closed engine: %v, want ErrClosed", err)
	}
}

func TestSequenceAscendsForEver(t *testing.T) {
	dir := t.TempDir()
	last := uint64(0)
	for range 3 {
		e := MustOpen(t, dir)
		for _, document := range []string{"a", "b"} {
			r := MustAppend(t, e, document, "1.1.1/1.1.1/1.1.1", "x")
			if r.Seq <= last {
				t.Fatalf("sequence %d after %d", r.Seq, last)
			}
			last = r.Seq
			MustCheckpoint(t, e, document)
		}
		MustClose(t, e)
		if s := segments(t, dir); len(s) != 1 || len(MustReadFile(t, s[0])) != 4096 {
			t.Errorf("Close left segments %v", s)
		}
	}
}

func TestSecondOwnerIsRefused(t *testing.T) {
	dir := t.TempDir()
	MustOpen(t, dir)
	opts := options(dir)
	opts.LockWait = 1
	if _, err := Open(opts); !errors.Is(err, ErrLocked) {
		t.Fatalf("second Open: %v, want ErrLocked", err)
	}
}

func TestUnmodifiedFileIsServedByteForByte(t *testing.T) {
	dir := t.TempDir()
	text := "a\x18b\x17\x17\x18c\x1a\x17\x01\x17" // with redundant breaks
	MustWriteFile(t, dir, "odd.phext", text)
	e := MustOpen(t, dir)
	v := MustView(t, e, "odd")
	var got bytes.Buffer
	v.WriteTo(&got)
	if got.String() != text || v.Checksum() != phext.Checksum([]byte(text)) || v.Bytes() != int64(len(text)) {
		t.Errorf("served %q, want %q", got.String(), text)
	}
	MustAppend(t, e, "odd", "1.1.1/1.1.1/1.1.1", "!")
	want := shadow{phext.Origin: "a!",
		MustCoordinate(t, "1.1.1/1.1.1/1.2.1"): "b",
		MustCoordinate(t, "1.1.1/1.1.1/1.3.1"): "c"}
	want.check(t, e, "odd")
	MustClose(t, e)
	if got := MustReadFile(t, dir, "odd.phext"); !bytes.Equal(got, want.document()) {
		t.Errorf("the file is %q, want %q", got, want.document())
	}
}

func TestBadFilesAreRefusedAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		make   func(t *testing.T, dir string)
		offset int64 // -1 where the file is not text
	}{
		"invalid UTF-8": {func(t *testing.T, dir string) {
			MustWriteFile(t, dir, "bad.phext", "abc\xffdef")
		}, 3},
		"coordinate beyond 65535": {func(t *testing.T, dir string) {
			MustWriteFile(t, dir, "bad.phext", strings.Repeat("\x17", 65535))
		}, 65534},
		"symbolic link": {func(t *testing.T, dir string) {
			MustWriteFile(t, dir, "good2.phext", "secret")
			if err := os.Symlink("good2.phext", filepath.Join(dir, "bad.phext")); err != nil {
				t.Fatal(err)
			}
		}, -1},
		"FIFO": {func(t *testing.T, dir string) {
			if err := unix.Mkfifo(filepath.Join(dir, "bad.phext"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, -1},
		"folder": {func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "bad.phext"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tc.make(t, dir)
			MustWriteFile(t, dir, "good.phext", "fine")
			e := MustOpen(t, dir)
			_, viewErr := e.View("bad")
			_, putErr := e.Put(ctx, "bad", phext.Origin, []byte("x"), 0)
			_, removeErr := e.Remove(ctx, "bad")
			for what, err := range map[string]error{"View": viewErr, "Put": putErr, "Remove": removeErr} {
				var bad *DocumentError
				if !errors.As(err, &bad) || bad.Document != "bad" {
					t.Fatalf("%s: %v, want a DocumentError", what, err)
				}
				if strings.Contains(err.Error(), dir) {
					t.Errorf("%s: the error %q holds a path", what, err)
				}
				var text *phext.TextError
				if tc.offset >= 0 && (!errors.As(err, &text) || text.Offset != tc.offset) {
					t.Errorf("%s: %v, want offset %d", what, err, tc.offset)
				}
			}
			if got := selectText(t, e, "good", "1.1.1/1.1.1/1.1.1"); got != "fine" {
				t.Errorf("the other document reads %q", got)
			}
			MustPut(t, e, "good", "1.1.1/1.1.1/1.1.1", "better")
			infos, err := e.List()
			if err != nil {
				t.Fatal(err)
			}
			if i := slices.IndexFunc(infos, func(i Info) bool { return i.Name == "bad" }); i < 0 || infos[i].Err == nil {
				t.Errorf("the list %v does not say that the document is bad", infos)
			}
			MustClose(t, e)
		})
	}
}

func TestLargeGeneratedDocument(t *testing.T) {
	dir := t.TempDir()
	want := shadow{}
	for i := range 10_000 {
		at := phext.Origin
		at[6], at[7], at[8] = uint16(1900+i/365), uint16(1+i%365/31), uint16(1+i%31)
		want[at] = fmt.Sprintf("day %d: %s", i, strings.Repeat("text ", i%50))
	}
	MustWriteFile(t, dir, "days.phext", string(want.document()))
	e := MustOpen(t, dir)
	want.check(t, e, "days")
	if !e.docs["days"].now.base.mapped {
		t.Fatal("the document is too small to be mapped")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for at := range want {
		switch r.IntN(3) {
		case 0:
			if _, err := e.Delete(ctx, "days", at); err != nil {
				t.Fatal(err)
			}
			delete(want, at)
		case 1:
			if _, err := e.Append(ctx, "days", at, []byte("!"), 0); err != nil {
				t.Fatal(err)
			}
			want[at] += "!"
		}
		if r.IntN(3000) == 0 {
			MustCheckpoint(t, e, "days")
		}
	}
	want.check(t, e, "days")
	e.abort()
	e = MustOpen(t, dir)
	want.check(t, e, "days")
	MustClose(t, e)
	e = MustOpen(t, dir)
	want.check(t, e, "days")
}
