package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// TestCheckAgreesWithOpen damages every byte of a small log and cuts it at every
// length: Check must see damage exactly where a worker refuses to open.
func TestCheckAgreesWithOpen(t *testing.T) {
	dir, _, used := smallLog(t)
	path := segments(t, dir)[0]
	whole := MustReadFile(t, path)
	damagedTimes := 0
	try := func(what string, at int, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Check(dir)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Open(options(dir))
		if err == nil {
			e.abort()
		} else if corrupt := new(CorruptError); !errors.As(err, &corrupt) {
			t.Fatalf("Open: %v, want a CorruptError", err)
		}
		if r.Damaged() != (err != nil) {
			t.Errorf("%s at byte %d: Open says %v, Check %v", what, at, err, r.Findings)
		}
		if err != nil {
			damagedTimes++
		}
	}
	for i := range used + 10 {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1 << (i % 8)
		try("flip", i, damaged)
	}
	for i := range used + frameHeader {
		try("cut", i, whole[:i])
	}
	if damagedTimes < used {
		t.Errorf("only %d of the damages were damage", damagedTimes)
	}
}

// FuzzOffline looks at arbitrary bytes as a document, as the payload of a record
// that verifies, and as what follows it. Whatever they are, nothing crashes,
// Check is not content where a worker is not, and what is repaired is sound.
func FuzzOffline(f *testing.F) {
	payload := appendOp(nil, op{kind: opBase, document: "a", file: absent(0).record})
	payload = appendOp(payload, op{kind: opAppend, document: "a", at: phext.Origin, text: []byte("text")})
	f.Add([]byte("one\x17two"), payload, []byte{})
	f.Add([]byte("one\xff\x17two"), appendOp(nil, op{kind: opPut, document: "../a", at: phext.Origin, text: []byte("x")}), make([]byte, 100))
	f.Add([]byte{}, appendOp(nil, op{kind: opDelete, document: "a", at: phext.Origin}), append(testSegment(3)[segmentHeader:], make([]byte, 50)...))
	f.Add([]byte{}, []byte{byte(opIntent), 1, 'a'}, []byte{1})
	f.Add([]byte{}, appendOp(payload, op{kind: opKey, key: testKey}), appendFrame(nil, testEpoch, 2, 1, op{kind: opIntent, document: "a"}, op{kind: opKey, key: testKey}))
	f.Fuzz(func(t *testing.T, document, payload, tail []byte) {
		dir := t.TempDir()
		MustWriteFile(t, dir, "a.phext", string(document))
		log := appendSegmentHeader(nil, testEpoch, 1)
		log = append(log, sealFrame(1, 0, payload)...)
		log = append(log, tail...)
		if err := os.Mkdir(filepath.Join(dir, controlFolder), 0o700); err != nil {
			t.Fatal(err)
		}
		s := segment{first: 1}
		MustWriteFile(t, dir, filepath.Join(controlFolder, s.name()), string(log))

		r, err := Check(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Dump(dir, "", func(Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out")
		if _, err := Repair(dir, out); err != nil {
			t.Fatal(err)
		}
		if after, err := Check(out); err != nil || after.Damaged() {
			t.Fatalf("the repaired directory: %v, %v", err, after.Findings)
		}
		MustOpen(t, out).abort()
		if r.Damaged() {
			return
		}
		e, err := Open(options(dir))
		if err != nil {
			t.Fatalf("Check is content with %v, Open is not: %v", r.Findings, err)
		}
		e.abort()
	})
}

// sealFrame is a frame around any payload.
func sealFrame(seq, durable uint64, payload []byte) []byte {
	b := append(make([]byte, frameHeader), payload...)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(b[8:], seq)
	binary.LittleEndian.PutUint64(b[16:], durable)
	binary.LittleEndian.PutUint32(b[24:], crc32.Checksum(payload, castagnoli()))
	binary.LittleEndian.PutUint32(b, checkFrame(testEpoch, b))
	return b
}
