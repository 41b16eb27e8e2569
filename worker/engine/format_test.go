package engine

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/phext"
)

// TestFormat compares what is written with the bytes that README.md explains.
// Directories of earlier versions hold these: change the version in
// segmentMagic before anything here.
func TestFormat(t *testing.T) {
	at := phext.Coordinate{1, 1, 1, 1, 1, 1, 1981, 12, 31}
	file := fileRecord{exists: true, seq: 6, size: 4, hash: [16]byte{0xa0, 15: 0xaf}}
	key := &keyed{Key{0xb0, 15: 1}, receipt{request: [16]byte{0xc0, 15: 2}, time: 1778670464, seq: 9, bytes: 3, checksum: [16]byte{0xd0, 15: 3}}}
	ks := keys{receipts: map[Key]receipt{key.key: key.receipt}}
	for _, tt := range []struct {
		name, want string
		got        []byte
	}{
		{"segment header", "73716c6f67000001 0102030405060708 0700000000000000 1f1c95da 00000000", appendSegmentHeader(nil, testEpoch, 7)},
		{"frame", "a718b851 01000000 0700000000000000 0600000000000000 52d016a0 01", appendFrame(nil, testEpoch, 7, 6, op{kind: opMark})},
		{"mark", "01", appendOp(nil, op{kind: opMark})},
		{"base", "02 01 61 01 0600000000000000 0400000000000000 a00000000000000000000000000000af", appendOp(nil, op{kind: opBase, document: "a", file: file})},
		{"intent of no file", "03 01 61 00 0000000000000000 0000000000000000 00000000000000000000000000000000", appendOp(nil, op{kind: opIntent, document: "a"})},
		{"append", "04 01 61 010001000100 010001000100 bd070c001f00 03 c3a921", appendOp(nil, op{kind: opAppend, document: "a", at: at, text: []byte("é!")})},
		{"put of 300 bytes", "05 01 61 010001000100 010001000100 010001000100 ac02" + strings.Repeat("78", 300), appendOp(nil, op{kind: opPut, document: "a", at: phext.Origin, text: []byte(strings.Repeat("x", 300))})},
		{"delete", "06 01 61 010001000100 010001000100 bd070c001f00", appendOp(nil, op{kind: opDelete, document: "a", at: at})},
		{"key", "07 b0000000000000000000000000000001 c0000000000000000000000000000002 805b046a00000000 0900000000000000 0300000000000000 d0000000000000000000000000000003", appendOp(nil, op{kind: opKey, key: key})},
		{"file of keys", "73716b6579730001 0b00000000000000 b0000000000000000000000000000001 c0000000000000000000000000000002 805b046a00000000 0900000000000000 0300000000000000 d0000000000000000000000000000003 e87cf6f6", ks.encode(11, time.Unix(key.time, 0))},
	} {
		if got, want := hex.EncodeToString(tt.got), strings.ReplaceAll(tt.want, " ", ""); got != want {
			t.Errorf("%s is written as\n%s, want\n%s", tt.name, got, want)
		}
	}
}
