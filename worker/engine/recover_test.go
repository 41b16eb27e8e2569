package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/phext"
)

const origin = "1.1.1/1.1.1/1.1.1"

// smallLog returns a data directory with a few acknowledged changes in the log,
// the models of its documents, and how many bytes of the log are in use. The
// log ends with a mark, as it does once it was quiet.
func smallLog(t *testing.T) (dir string, docs map[string]shadow, used int) {
	dir = t.TempDir()
	MustWriteFile(t, dir, "b.phext", "placed")
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", origin, "one ")
	MustAppend(t, e, "b", origin, " by hand")
	MustCheckpoint(t, e, "b")
	MustAppend(t, e, "a", origin, "two")
	MustAppend(t, e, "b", "1.1.1/1.1.1/1.1.2", "more")
	e.abort()
	return dir, map[string]shadow{
		"a": {phext.Origin: "one two"},
		"b": {phext.Origin: "placed by hand", MustCoordinate(t, "1.1.1/1.1.1/1.1.2"): "more"},
	}, int(e.wal.used)
}

// TestDamagedLog changes every byte of a small log, and cuts it at every length.
func TestDamagedLog(t *testing.T) {
	dir, docs, used := smallLog(t)
	path := segments(t, dir)[0]
	file := MustReadFile(t, dir, documents[1])
	whole := MustReadFile(t, path)
	intact, refused := 0, 0
	try := func(t *testing.T, damaged []byte) {
		t.Helper()
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := Open(options(dir))
		if err == nil {
			for name, want := range docs {
				want.check(t, e, name)
			}
			e.abort()
			intact++
			return
		}
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			t.Fatalf("Open: %v, want a CorruptError", err)
		}
		if !bytes.Equal(MustReadFile(t, path), damaged) || !bytes.Equal(MustReadFile(t, dir, documents[1]), file) {
			t.Fatal("a refused Open changed the data directory")
		}
		if note := MustReadFile(t, dir, controlFolder, quarantine); !bytes.Contains(note, []byte(corrupt.File)) {
			t.Fatalf("the note %q does not name the segment", note)
		}
		refused++
	}
	t.Run("flip", func(t *testing.T) {
		intact, refused = 0, 0
		for i := range used + 10 {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << (i % 8)
			try(t, damaged)
		}
		// What may be damaged and still open: the mark, which says nothing of
		// its own, the header's unused bytes and the zeros after the end.
		if markSize := frameHeader + 1; intact != markSize+4+10 {
			t.Errorf("%d of %d flips went unnoticed, want %d", intact, intact+refused, markSize+4+10)
		}
	})
	t.Run("cut", func(t *testing.T) {
		intact, refused = 0, 0
		for i := range used + frameHeader {
			try(t, whole[:i])
		}
		if intact != 0 {
			t.Errorf("%d of %d cuts went unnoticed", intact, intact+refused)
		}
	})
}

var documents = []string{"a.phext", "b.phext"}

// TestTornBatch damages every byte of a batch that was never confirmed: all
// before it must be there, and the log must go on as if it had not been.
func TestTornBatch(t *testing.T) {
	dir, docs, used := smallLog(t)
	path := segments(t, dir)[0]
	whole := MustReadFile(t, path)
	epoch, _, _ := readSegmentHeader(whole)
	_, next, err := scanSegment("log", whole, true, func(uint64, []op) {})
	if err != nil {
		t.Fatal(err)
	}
	batch := appendFrame(nil, epoch, next, next-1, op{kind: opAppend, document: "a", at: phext.Origin, text: []byte(" torn")})
	first := len(batch)
	batch = appendFrame(batch, epoch, next+1, next-1, op{kind: opAppend, document: "a", at: phext.Origin, text: []byte(" batch")})
	for i := range batch {
		image := CopyDir(t, dir)
		damaged := bytes.Clone(whole)
		copy(damaged[used:], batch)
		damaged[used+i] ^= 0x10
		if err := os.WriteFile(segments(t, image)[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		want := shadow{phext.Origin: docs["a"][phext.Origin]}
		if i >= first {
			want[phext.Origin] += " torn"
		}
		for range 2 {
			e := MustOpen(t, image)
			want.check(t, e, "a")
			docs["b"].check(t, e, "b")
			MustAppend(t, e, "a", origin, "+")
			want[phext.Origin] += "+"
			e.abort()
		}
	}
}

// TestCheckpointCrashPoints takes the directory as a crash would leave it
// between any two steps of a checkpoint. An append is not idempotent, so
// replaying one twice would show.
func TestCheckpointCrashPoints(t *testing.T) {
	dir := t.TempDir()
	MustWriteFile(t, dir, "a.phext", "x")
	e := MustOpen(t, dir)
	want := shadow{phext.Origin: "x"}
	add := func(e *Engine) {
		MustAppend(t, e, "a", origin, "y")
		want[phext.Origin] += "y"
	}
	add(e)
	d := e.docs["a"]
	snap := d.now.snapshot()
	defer snap.release()
	d.touched = map[phext.Coordinate]struct{}{}
	add(e) // while the checkpoint writes

	images := map[string]string{"before": CopyDir(t, dir)}
	temp, err := e.writeTemp(snap)
	if err != nil {
		t.Fatal(err)
	}
	b, err := temp.base(snap.seq)
	if err != nil {
		t.Fatal(err)
	}
	images["file written"] = CopyDir(t, dir)
	if err := e.announce(d, &b.record, false, nil); err != nil {
		t.Fatal(err)
	}
	images["intent logged"] = CopyDir(t, dir)
	if err := e.control.rename(temp.name(), e.dir, d.file()); err != nil {
		t.Fatal(err)
	}
	temp.renamed = true
	images["renamed"] = CopyDir(t, dir)
	e.mu.Lock()
	done, err := e.rebase(d, newContent(b), 0)
	e.mu.Unlock()
	if err == nil {
		err = done.wait()
	}
	if err != nil {
		t.Fatal(err)
	}
	images["confirmed"] = CopyDir(t, dir)
	want.check(t, e, "a")

	text := want[phext.Origin]
	for name, image := range images {
		t.Run(name, func(t *testing.T) {
			want := shadow{phext.Origin: text}
			for range 3 {
				e := MustOpen(t, image)
				want.check(t, e, "a")
				MustAppend(t, e, "a", origin, "z")
				want[phext.Origin] += "z"
				e.abort()
			}
			if left, _ := filepath.Glob(filepath.Join(image, controlFolder, tempPrefix+"*")); len(left) != 0 {
				t.Errorf("temporary files are left: %v", left)
			}
		})
	}
}

// TestReplaceCrashPoints: before the rename the old document with its changes,
// after it the new one, never a mixture, even where both files are the same.
func TestReplaceCrashPoints(t *testing.T) {
	for _, body := range []string{"new", "old"} {
		t.Run(body, func(t *testing.T) {
			dir := t.TempDir()
			MustWriteFile(t, dir, "a.phext", "old")
			e := MustOpen(t, dir)
			MustAppend(t, e, "a", origin, " changed")
			d := e.docs["a"]
			temp, err := e.receive(ctx, d, bytes.NewReader([]byte(body)), 0)
			if err != nil {
				t.Fatal(err)
			}
			b, err := temp.base(0)
			if err == nil {
				err = b.parse(defaultLayout)
			}
			if err != nil {
				t.Fatal(err)
			}
			images := map[string]string{}
			crash := errors.New("no rename")
			if _, err := e.swap(d, b, 0, nil, func() error {
				images["old changed"] = CopyDir(t, dir)
				if err := os.Rename(filepath.Join(dir, controlFolder, temp.name()), filepath.Join(dir, "a.phext")); err != nil {
					t.Fatal(err)
				}
				images[body] = CopyDir(t, dir)
				MustWriteFile(t, dir, "a.phext", "old")
				return crash
			}); !errors.Is(err, crash) {
				t.Fatal(err)
			}
			if body == "old" {
				// The two are one file, so recovery cannot tell them apart. The
				// replacement counts as done, which it was about to be.
				delete(images, "old changed")
			}
			for want, image := range images {
				e := MustOpen(t, image)
				shadow{phext.Origin: want}.check(t, e, "a")
			}
			// The replacement failed, so the changes before it hold.
			e.abort()
			e = MustOpen(t, dir)
			shadow{phext.Origin: "old changed"}.check(t, e, "a")
		})
	}
}

// fillSegments puts enough into the log for three segments, none of it so much
// for one document that it is checkpointed.
func fillSegments(t *testing.T, e *Engine) map[string]shadow {
	docs := map[string]shadow{}
	for i := range 24 {
		text := bytes.Repeat([]byte{byte('a' + i)}, 900<<10)
		name := fmt.Sprint("doc", i)
		if _, err := e.Put(ctx, name, phext.Origin, text, 0); err != nil {
			t.Fatal(err)
		}
		docs[name] = shadow{phext.Origin: string(text)}
	}
	return docs
}

// awaitOneSegment returns once the others are gone: that is after the writers of
// the batch that made them needless were told.
func awaitOneSegment(t *testing.T, dir string) {
	t.Helper()
	for len(segments(t, dir)) > 1 {
		time.Sleep(time.Millisecond)
	}
}

func TestSegmentsRotateAndGo(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	MustAppend(t, e, "small", origin, "kept")
	docs := fillSegments(t, e)
	docs["small"] = shadow{phext.Origin: "kept"}
	if n := len(segments(t, dir)); n < 3 {
		t.Fatalf("%d segments after 22 MiB, want 3 at least", n)
	}
	image := CopyDir(t, dir)
	for name := range docs {
		MustCheckpoint(t, e, name)
	}
	awaitOneSegment(t, dir)
	MustClose(t, e)
	for _, dir := range []string{dir, image} {
		e := MustOpen(t, dir)
		for name, want := range docs {
			want.check(t, e, name)
		}
		MustClose(t, e)
	}
}

// TestChangesOutliveOlderSegments: what says which file a change lies on must
// not go with an older segment.
func TestChangesOutliveOlderSegments(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	MustAppend(t, e, "small", origin, "one")
	MustCheckpoint(t, e, "small")
	for name := range fillSegments(t, e) {
		MustCheckpoint(t, e, name)
	}
	MustAppend(t, e, "small", origin, " two")
	awaitOneSegment(t, dir)
	for range 2 {
		e.abort()
		e = MustOpen(t, dir)
		shadow{phext.Origin: "one two"}.check(t, e, "small")
	}
	MustAppend(t, e, "small", origin, "!")
}

func TestMissingSegmentIsRefused(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	fillSegments(t, e)
	e.abort()
	if err := os.Remove(segments(t, dir)[1]); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := Open(options(dir)); !errors.As(err, &corrupt) {
		t.Fatalf("Open: %v, want a CorruptError", err)
	}
}

func TestFailedLogStopsWrites(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", origin, "before")
	e.wal.f.Close() // every later write of the log fails
	if _, err := e.Append(ctx, "a", phext.Origin, []byte(" after"), 0); !errors.Is(err, ErrFailed) {
		t.Fatalf("append on a failing disk: %v, want ErrFailed", err)
	}
	<-e.Failed()
	if e.Err() == nil {
		t.Error("Err is nil after a failure")
	}
	if got := selectText(t, e, "a", origin); got != "before" {
		t.Errorf("readers see %q, want what is durable", got)
	}
	for _, err := range []error{
		func() error { _, err := e.Put(ctx, "b", phext.Origin, []byte("x"), 0); return err }(),
		func() error { _, err := e.Replace(ctx, "a", bytes.NewReader(nil), 0); return err }(),
		func() error { _, err := e.Remove(ctx, "a"); return err }(),
		e.checkpoint(e.docs["a"]),
		e.Close(),
	} {
		if !errors.Is(err, ErrFailed) {
			t.Errorf("after the failure: %v, want ErrFailed", err)
		}
	}
	e = MustOpen(t, dir)
	shadow{phext.Origin: "before"}.check(t, e, "a")
}

// TestWritersGoOnDuringCheckpoint: writers neither wait for a checkpoint, even
// when its file has just got the document's name, nor are their changes lost.
func TestWritersGoOnDuringCheckpoint(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	want := shadow{}
	put := func(i int, text string) {
		t.Helper()
		at := phext.Origin
		at[8] = uint16(1 + i)
		if _, err := e.Put(ctx, "a", at, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		want[at] = text
	}
	for i := range 100 {
		put(i, "before")
	}
	d := e.docs["a"]
	d.io.Lock() // a writer that waited for the checkpoint would wait for ever
	e.mu.Lock()
	snap := d.now.snapshot()
	d.touched = make(map[phext.Coordinate]struct{})
	e.mu.Unlock()
	temp, err := e.writeTemp(snap)
	if err != nil {
		t.Fatal(err)
	}
	b, err := temp.base(snap.seq)
	if err != nil {
		t.Fatal(err)
	}
	snap.release()
	c := newContent(b)
	for i := range 1000 {
		put(i/2, fmt.Sprint("meanwhile ", i)) // changes and adds
	}
	for i := 90; i < 110; i++ {
		put(i, "")
	}
	put(90, "again")
	e.follow(d, c)
	if len(d.touched) != 0 {
		t.Errorf("%d changes are left for later", len(d.touched))
	}
	e.mu.Lock()
	d.next = b.id
	e.mu.Unlock()
	if err := e.install(d, temp, b.record); err != nil {
		t.Fatal(err)
	}
	put(91, "with the new file in place")
	put(0, "")
	renamed := CopyDir(t, dir)
	e.mu.Lock()
	done, err := e.rebase(d, c, 0)
	e.mu.Unlock()
	if err == nil {
		err = done.wait()
	}
	if err != nil {
		t.Fatal(err)
	}
	d.io.Unlock()
	want.check(t, e, "a")
	for name, image := range map[string]string{"renamed": renamed, "confirmed": CopyDir(t, dir)} {
		t.Run(name, func(t *testing.T) {
			e := MustOpen(t, image)
			want.check(t, e, "a")
			MustClose(t, e)
			want.check(t, MustOpen(t, image), "a")
		})
	}
}
