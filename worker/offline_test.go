package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/phext"
)

// mustRun runs the binary and returns its exit status and what it printed.
func mustRun(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := command(t, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// tree describes every file under dir: what must not change.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		var content []byte
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		fmt.Fprintf(&b, "%s %v %v %x\n", path, info.Mode(), info.ModTime().UnixNano(), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func mustWrite(t *testing.T, text string, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// killedWorker returns a data directory with changes that only the log holds:
// of notes, which has no file, and of placed, whose file is a person's.
func killedWorker(t *testing.T) string {
	t.Helper()
	for {
		dir := t.TempDir()
		mustWrite(t, "by hand\x17next", dir, "placed.phext")
		mustWrite(t, "untouched", dir, "quiet.phext")
		w := startWorker(t, dir)
		mustAsk(t, w.client, http.MethodPost, "/insert"+noteURI, "one ")
		mustAsk(t, w.client, http.MethodPost, "/insert?c=acme.1.1.1/1.1.1/1.1.1&p=placed", " and log")
		mustAsk(t, w.client, http.MethodPost, "/insert"+noteURI, "two")
		mustAsk(t, w.client, http.MethodPost, "/update?c=acme.1.1.1/1.1.1/1.1.3&p=notes", "three")
		w.Process.Kill()
		w.Wait()
		// On a machine that is busy for seconds, checkpoints were first.
		placed, err := os.ReadFile(filepath.Join(dir, "placed.phext"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "notes.phext")); err != nil && !bytes.Contains(placed, []byte("log")) {
			return dir
		}
	}
}

func segmentPath(t *testing.T, dir string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, ".sq", "log-*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("segments %v, %v", paths, err)
	}
	return paths[0]
}

// mustPatch changes the bytes of the log's first segment.
func mustPatch(t *testing.T, dir string, patch func(data []byte, used int) []byte) {
	t.Helper()
	path := segmentPath(t, dir)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(data, "\x00"))
	mustWrite(t, string(patch(data, used)), path)
}

// offsetOf returns where the record begins that holds a text, by dump.
func offsetOf(t *testing.T, dir, text string) int {
	t.Helper()
	_, out, _ := mustRun(t, "dump", dir)
	for line := range strings.Lines(out) {
		var r struct {
			Offset int
			Text   string
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Text == text {
			return r.Offset
		}
	}
	t.Fatalf("no record holds %q: %s", text, out)
	return 0
}

// mustRepair repairs dir into a new directory.
func mustRepair(t *testing.T, dir string) (out string, status int, said string) {
	t.Helper()
	out = filepath.Join(t.TempDir(), "out")
	status, said, stderr := mustRun(t, "repair", dir, out)
	if status == exitNotDone {
		t.Fatalf("repair: %s", stderr)
	}
	return out, status, said
}

// TestOffline damages a data directory in many ways: check and repair must see
// it, dump and both of them must leave the directory as it is, and what repair
// saves must be clean and hold what is wanted.
func TestOffline(t *testing.T) {
	const notes, placed = "one two\x17\x17three", "by hand and log\x17next"
	intact := map[string]string{"notes": notes, "placed": placed, "quiet": "untouched"}
	with := func(name, text string) map[string]string {
		m := maps.Clone(intact)
		m[name] = text
		return m
	}
	for name, tc := range map[string]struct {
		damage   func(t *testing.T, dir string)
		status   int      // of check
		repaired int      // status of repair
		check    []string // what check must say
		repair   []string // what repair must say besides
		want     map[string]string
	}{
		"intact": {func(*testing.T, string) {}, exitClean, exitClean,
			[]string{"documents: 3 readable, 43 bytes, 5 scrolls, 2 with changes that only the log holds", "log: 1 segments, ", "clean"},
			[]string{`saved: "notes.phext": 14 bytes, 2 scrolls, with changes from the log`, "complete"}, intact},
		"bit of a text": {func(t *testing.T, dir string) {
			at := offsetOf(t, dir, "two")
			mustPatch(t, dir, func(data []byte, _ int) []byte {
				data[at+bytes.Index(data[at:], []byte("two"))] ^= 1
				return data
			})
		}, exitDamaged, exitDamaged, []string{"damaged at byte", " is missing", "DAMAGED"},
			[]string{"were applied to it although records are missing", "INCOMPLETE"},
			with("notes", "one \x17\x17three")},
		"bit of the segment's header": {func(t *testing.T, dir string) {
			mustPatch(t, dir, func(data []byte, _ int) []byte { data[20] ^= 1; return data })
		}, exitDamaged, exitDamaged, []string{"its header does not verify"}, nil, intact},
		"epoch": {func(t *testing.T, dir string) {
			mustPatch(t, dir, func(data []byte, _ int) []byte { data[8] ^= 1; return data })
		}, exitDamaged, exitDamaged, []string{"its header does not verify"}, nil,
			map[string]string{"placed": "by hand\x17next", "quiet": "untouched"}},
		"segment cut": {func(t *testing.T, dir string) {
			mustPatch(t, dir, func(data []byte, used int) []byte { return data[:bytes.Index(data, []byte("three"))] })
		}, exitDamaged, exitDamaged, []string{"it was cut short"}, nil, with("notes", "one two")},
		"segment empty": {func(t *testing.T, dir string) {
			mustPatch(t, dir, func([]byte, int) []byte { return nil })
		}, exitDamaged, exitDamaged, []string{"its header does not verify"}, nil,
			map[string]string{"placed": "by hand\x17next", "quiet": "untouched"}},
		"segment a link": {func(t *testing.T, dir string) {
			path := segmentPath(t, dir)
			if err := os.Rename(path, filepath.Join(dir, "elsewhere")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("../elsewhere", path); err != nil {
				t.Fatal(err)
			}
		}, exitDamaged, exitDamaged, []string{"too many levels of symbolic links", `note: "elsewhere": not a document`}, nil,
			map[string]string{"placed": "by hand\x17next", "quiet": "untouched"}},
		"segment renamed": {func(t *testing.T, dir string) {
			if err := os.Rename(segmentPath(t, dir), filepath.Join(dir, ".sq", "log-00000000000000ff")); err != nil {
				t.Fatal(err)
			}
		}, exitDamaged, exitDamaged, []string{"it begins with record 1, not the one in its name"}, nil, intact},
		"torn batch": {func(t *testing.T, dir string) {
			mustPatch(t, dir, func(data []byte, used int) []byte {
				for i := range 40 {
					data[used+i] = 0xff
				}
				return data
			})
		}, exitClean, exitClean, []string{"was never acknowledged", "clean"}, []string{"complete"}, intact},
		"invalid UTF-8": {func(t *testing.T, dir string) {
			mustWrite(t, "good\x17b\xffd\x17fine", dir, "quiet.phext")
		}, exitDamaged, exitDamaged, []string{`damage: "quiet.phext": invalid UTF-8 at byte 6`},
			[]string{"the scroll at 1.1.1/1.1.1/1.1.2, bytes 5 to 8, is left behind"},
			with("quiet", "good\x17\x17fine")},
		"coordinate too large": {func(t *testing.T, dir string) {
			mustWrite(t, "kept"+strings.Repeat("\x19", 65535)+"lost", dir, "quiet.phext")
		}, exitDamaged, exitDamaged, []string{"a chapter number beyond 65535 at byte 65538"},
			[]string{"all from byte 4 on is left behind"}, with("quiet", "kept")},
		"edited before its changes were in it": {func(t *testing.T, dir string) {
			mustWrite(t, "edited", dir, "placed.phext")
		}, exitDamaged, exitClean, []string{`damage: "placed.phext": it is not the file that its changes in the log lie on`},
			[]string{`they are saved as document "placed.conflict-`}, map[string]string{"notes": notes, "quiet": "untouched", "placed": "edited", "placed.conflict": " and log"}},
		"unreadable with changes": {func(t *testing.T, dir string) {
			mustWrite(t, "by h\xff", dir, "placed.phext")
		}, exitDamaged, exitDamaged, []string{"invalid UTF-8 at byte 4", "the log holds changes that it lacks"},
			[]string{`they are saved as document "placed.conflict-`}, map[string]string{"notes": notes, "quiet": "untouched", "placed": "", "placed.conflict": " and log"}},
		"document a link": {func(t *testing.T, dir string) {
			secret := filepath.Join(t.TempDir(), "secret")
			mustWrite(t, "of another tenant", secret)
			if err := os.Symlink(secret, filepath.Join(dir, "linked.phext")); err != nil {
				t.Fatal(err)
			}
		}, exitDamaged, exitDamaged, []string{`damage: "linked.phext": it is not a regular file`}, nil, intact},
		"document a folder, a FIFO": {func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "folder.phext"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(filepath.Join(dir, "fifo.phext"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, exitDamaged, exitDamaged, []string{`damage: "folder.phext": it is not a regular file`, `damage: "fifo.phext": it is not a regular file`}, nil, intact},
		"removed document": {func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, ".trash"), 0o700); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, "\xff", dir, ".trash", "old.phext")
		}, exitDamaged, exitClean, []string{`damage: ".trash/old.phext": invalid UTF-8 at byte 0`}, []string{"removed documents are not brought over"}, intact},
		"foreign files": {func(t *testing.T, dir string) {
			mustWrite(t, "", dir, "a\x1b[2J.txt")
			mustWrite(t, "", dir, ".sq", "tmp-0123")
			mustWrite(t, "", dir, ".sq", "quarantine")
		}, exitClean, exitClean, []string{`"a\x1b[2J.txt": not a document`, "was never finished", "a worker refused to open"}, nil, intact},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := killedWorker(t)
			tc.damage(t, dir)
			before := tree(t, dir)
			status, said, stderr := mustRun(t, "check", dir)
			if status != tc.status {
				t.Errorf("check: status %d, want %d", status, tc.status)
			}
			for _, want := range tc.check {
				if !strings.Contains(said, want) {
					t.Errorf("check does not say %q:\n%s%s", want, said, stderr)
				}
			}
			mustRun(t, "dump", dir)
			out, status, said := mustRepair(t, dir)
			if status != tc.repaired {
				t.Errorf("repair: status %d, want %d:\n%s", status, tc.repaired, said)
			}
			for _, want := range tc.repair {
				if !strings.Contains(said, want) {
					t.Errorf("repair does not say %q:\n%s", want, said)
				}
			}
			if after := tree(t, dir); after != before {
				t.Errorf("the directory was changed from\n%s\nto\n%s", before, after)
			}
			mustServe(t, out, tc.want)
		})
	}
}

// mustServe compares what a worker serves of a repaired directory.
func mustServe(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	if status, said, _ := mustRun(t, "check", dir); status != exitClean {
		t.Errorf("the repaired directory is not clean:\n%s", said)
	}
	w := startWorker(t, dir)
	got := map[string]string{}
	for line := range strings.Lines(mustAsk(t, w.client, http.MethodGet, "/documents?c=acme", "")) {
		name, _, _ := strings.Cut(line, "\t")
		text := mustAsk(t, w.client, http.MethodGet, "/get?c=acme&p="+name, "")
		if stem, _, ok := strings.Cut(name, ".conflict-"); ok {
			name = stem + ".conflict" // and a time
		}
		got[name] = text
	}
	if !maps.Equal(got, want) {
		t.Errorf("the repaired directory holds %q, want %q", got, want)
	}
}

// What cannot be looked at is said, with status 2, and nothing is made.
func TestOfflineRefuses(t *testing.T) {
	base := t.TempDir()
	dir, full := filepath.Join(base, "data"), filepath.Join(base, "full")
	for _, d := range []string{dir, full, filepath.Join(base, "left.incomplete")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir, filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, "", base, "file")
	served := t.TempDir()
	w := startWorker(t, served)
	mustAsk(t, w.client, http.MethodPost, "/insert"+noteURI, "text")
	before := tree(t, base)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"check"}, "usage:"},
		{[]string{"check", dir, dir}, "usage:"},
		{[]string{"check", "-x", dir}, "usage:"},
		{[]string{"repair", dir}, "usage:"},
		{[]string{"dump", dir, "notes", "more"}, "usage:"},
		{[]string{"dump", dir, "../notes"}, "document name begins with a dot"},
		{[]string{"check", filepath.Join(base, "none")}, "no such file or directory"},
		{[]string{"check", filepath.Join(base, "file")}, "not a directory"},
		{[]string{"repair", dir, full}, "exists"},
		{[]string{"repair", dir, filepath.Join(base, "file")}, "exists"},
		{[]string{"repair", dir, filepath.Join(dir, "out")}, "lies in the old directory"},
		{[]string{"repair", dir, filepath.Join(base, "link", "out")}, "lies in the old directory"},
		{[]string{"repair", dir, filepath.Join(base, "left")}, "remove what an earlier repair left"},
		{[]string{"repair", dir, filepath.Join(base, "none", "out")}, "no such file or directory"},
		{[]string{"check", served}, "in use by another worker: disable the tenant"},
		{[]string{"dump", served}, "in use by another worker"},
		{[]string{"repair", served, filepath.Join(base, "new")}, "in use by another worker"},
	} {
		status, out, stderr := mustRun(t, tt.args...)
		if status != exitNotDone || out != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: status %d, %q and %q, want status 2 and %q", tt.args, status, out, stderr, tt.want)
		}
	}
	if after := tree(t, base); after != before {
		t.Errorf("the directories were changed from\n%s\nto\n%s", before, after)
	}
}

// A directory that never had a worker stays without a trace of one, and what is
// repaired of it is a directory that a worker can have.
func TestOfflineWithoutLog(t *testing.T) {
	dir := t.TempDir()
	for _, command := range []string{"check", "dump"} {
		if status, out, stderr := mustRun(t, command, dir); status != exitClean || stderr != "" || strings.Contains(out, "note") {
			t.Errorf("%s of an empty directory: status %d, %q and %q", command, status, out, stderr)
		}
	}
	mustWrite(t, "placed", dir, "notes.phext")
	before := tree(t, dir)
	out, status, said := mustRepair(t, dir)
	if status != exitClean {
		t.Errorf("repair: status %d, %s", status, said)
	}
	if after := tree(t, dir); after != before {
		t.Errorf("the directory was changed from\n%s\nto\n%s", before, after)
	}
	mustServe(t, out, map[string]string{"notes": "placed"})
}

func TestDump(t *testing.T) {
	dir := killedWorker(t)
	type file struct {
		Exists bool
		Bytes  int64
		Hash   string
	}
	type record struct {
		Seq                               uint64
		Segment, Op, Coordinate, Document string
		Text                              *string
		Offset                            int
		File                              *file
	}
	read := func(args ...string) (lines []string) {
		t.Helper()
		status, out, stderr := mustRun(t, append([]string{"dump", dir}, args...)...)
		if status != exitClean || stderr != "" {
			t.Fatalf("status %d, %q", status, stderr)
		}
		at := 0
		for line := range strings.Lines(out) {
			var r record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%v in %q", err, line)
			}
			if r.Segment != "log-0000000000000001" || r.Offset < at || r.Offset == 0 {
				t.Errorf("segment %q and offset %d after %d", r.Segment, r.Offset, at)
			}
			at = r.Offset
			switch {
			case r.Op == "mark":
			case r.File != nil:
				lines = append(lines, fmt.Sprintf("%s %s %v %d %s", r.Op, r.Document, r.File.Exists, r.File.Bytes, r.File.Hash))
			default:
				lines = append(lines, fmt.Sprintf("%s %s %s %s", r.Op, r.Document, r.Coordinate, *r.Text))
			}
		}
		return lines
	}
	notes := []string{
		"base notes false 0 " + strings.Repeat("0", 32),
		"append notes 1.1.1/1.1.1/1.1.1 one ",
		"append notes 1.1.1/1.1.1/1.1.1 two",
		"put notes 1.1.1/1.1.1/1.1.3 three",
	}
	placed := []string{
		"base placed true 12 " + phext.Checksum([]byte("by hand\x17next")),
		"append placed 1.1.1/1.1.1/1.1.1  and log",
	}
	for _, tt := range []struct {
		args, want []string
	}{
		{[]string{"none"}, nil},
		{[]string{"notes"}, notes},
		{[]string{"placed"}, placed},
		{nil, slices.Concat(notes[:2], placed, notes[2:])},
	} {
		if got := read(tt.args...); !slices.Equal(got, tt.want) {
			t.Errorf("dump %q prints\n%q, want\n%q", tt.args, got, tt.want)
		}
	}
}

// Of several segments the first is damaged: what stands in the others is saved,
// and the new log goes on above the old one's sequence.
func TestRepairManySegments(t *testing.T) {
	var dir string
	want := map[string]string{}
	for checkpointed := []string{"on a slow machine"}; len(checkpointed) > 0; {
		dir = t.TempDir()
		w := startWorker(t, dir)
		for i := range 12 {
			name, text := fmt.Sprint("doc", i), strings.Repeat(string(rune('a'+i)), 900<<10)
			mustAsk(t, w.client, http.MethodPost, "/update?c=acme.1.1.1/1.1.1/1.1.1&p="+name, text)
			want[name] = text
		}
		w.Process.Kill()
		w.Wait()
		checkpointed, _ = filepath.Glob(filepath.Join(dir, "*.phext"))
	}
	at := offsetOf(t, dir, want["doc0"])
	mustPatch(t, dir, func(data []byte, _ int) []byte { data[at+1000] ^= 1; return data })
	last := 0
	_, out, stderr := mustRun(t, "dump", dir)
	for line := range strings.Lines(out) {
		var r struct{ Seq int }
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Seq < last {
			t.Fatalf("record %d after %d, %v", r.Seq, last, err)
		}
		last = r.Seq
	}
	if !strings.Contains(stderr, "later segments exist") {
		t.Fatalf("dump says %q of a damaged first segment", stderr)
	}
	delete(want, "doc0")
	repaired, status, said := mustRepair(t, dir)
	if status != exitDamaged {
		t.Errorf("repair: status %d, %s", status, said)
	}
	paths, err := filepath.Glob(filepath.Join(repaired, ".sq", "log-*"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("segments %v, %v", paths, err)
	}
	var first int
	if _, err := fmt.Sscanf(filepath.Base(paths[0]), "log-%x", &first); err != nil || first <= last {
		t.Errorf("the new log begins with record %d, the old one ended with %d, %v", first, last, err)
	}
	mustServe(t, repaired, want)
}
