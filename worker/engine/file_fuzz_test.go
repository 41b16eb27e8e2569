package engine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/phext"
)

// FuzzFile places arbitrary bytes as a document's file, changes the document a
// little and checkpoints it. A file that is no phext is refused with the place
// of its fault and left as it is; any other gives the answers that its scrolls
// in a map give, before and after.
func FuzzFile(f *testing.F) {
	f.Add([]byte("a\x17b\x18c\x19d\x1ae\x1cf\x1dg\x1eh\x1fi\x01j"), []byte("\x00\x28\x41"))
	f.Add([]byte("\x17\x17one\x18\x18\x17\x17two\x19\x01"), []byte("\x01\x48\x42\x02\x08\x03\x07"))
	f.Add([]byte("caf\xe9"), []byte{})
	f.Add(bytes.Repeat([]byte{0x1f}, phext.Max), []byte{})
	f.Add([]byte{}, []byte{2, 0, 0})

	dir := f.TempDir()
	e := MustOpen(f, dir)
	file := filepath.Join(dir, "a.phext")
	edits := 0
	f.Fuzz(func(t *testing.T, text, changes []byte) {
		MustWriteFile(t, dir, ".editor", string(text))
		// Edits of the same length within one tick of the file system's clock
		// would look the same.
		edits++
		when := time.Unix(int64(edits), 0)
		if err := os.Chtimes(filepath.Join(dir, ".editor"), when, when); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, ".editor"), file); err != nil {
			t.Fatal(err)
		}
		scrolls, fault := phext.Scrolls(text)
		if err := phext.Validate(text); err != nil {
			fault = err
		}
		err := e.Reload(ctx, "a")
		if fault != nil {
			var want, got *phext.TextError
			if errors.As(fault, &want); !errors.As(err, &got) || *got != *want {
				t.Fatalf("Reload: %v, want %v", err, fault)
			}
			if !bytes.Equal(MustReadFile(t, file), text) {
				t.Fatal("a file that was refused has changed")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		want := shadow{}
		for _, s := range scrolls {
			want[s.At] = string(s.Text)
		}
		v := MustView(t, e, "a")
		var got bytes.Buffer
		if _, err := v.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), text) || v.Checksum() != phext.Checksum(text) {
			t.Fatalf("the file %q is served as %q, %v", text, got.Bytes(), err)
		}
		want.checkScrolls(t, v)
		v.Close()

		changed := false
		for ; len(changes) >= 3; changes = changes[3:] {
			// Near a scroll that is there, or near the start.
			at := phext.Origin
			if n := len(scrolls); n > 0 {
				at = scrolls[int(changes[2])%n].At
			}
			if d := changes[1] >> 3; d < phext.Dimensions {
				at[d] = 1 + uint16(changes[1]&7)
			}
			ch := change{kind: opPut, at: at, text: changes[2:3]}
			if phext.Validate(ch.text) != nil || phext.IndexBreak(ch.text) >= 0 {
				ch.text = []byte("é")
			}
			before := want[at]
			switch changes[0] % 3 {
			case 0:
				want[at] = string(ch.text)
			case 1:
				ch.kind = opAppend
				want[at] += string(ch.text)
			case 2:
				ch.kind, ch.text = opDelete, nil
				want[at] = ""
			}
			if _, err := e.mutate(ctx, "a", ch, nil); err != nil {
				t.Fatal(err)
			}
			changed = changed || before != "" || want[at] != ""
		}
		if !changed {
			return
		}
		want.check(t, e, "a")
		MustCheckpoint(t, e, "a")
		if got := MustReadFile(t, file); !bytes.Equal(got, want.document()) {
			t.Fatalf("the checkpoint holds %q, want %q", got, want.document())
		}
		want.check(t, e, "a")
	})
}
