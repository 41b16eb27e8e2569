package engine

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

var testEpoch = [8]byte{1, 2, 3, 4, 5, 6, 7, 8}

var testKey = &keyed{Key{1}, receipt{request: [16]byte{2}, time: 1 << 33, seq: 3, bytes: 4, checksum: [16]byte{5}}}

// testRecords is one record of each kind.
var testRecords = [][]op{
	{{kind: opBase, document: "a", file: fileRecord{exists: true, seq: 3, size: 4, hash: [16]byte{5}}},
		{kind: opAppend, document: "a", at: phext.Origin, text: []byte("appended")}},
	{{kind: opPut, document: "a", at: phext.Coordinate{1, 2, 3, 4, 5, 6, 7, 8, 65535}, text: []byte("put")}},
	{{kind: opDelete, document: "b", at: phext.Origin}},
	{{kind: opIntent, document: "b"}},
	{{kind: opKey, key: testKey}},
	{{kind: opPut, document: "b", at: phext.Origin, text: []byte("keyed")}, {kind: opKey, key: testKey}},
	{{kind: opMark}},
}

// testSegment is a segment of testRecords from sequence first, each durable
// before the next is written.
func testSegment(first uint64) []byte {
	b := appendSegmentHeader(nil, testEpoch, first)
	for i, ops := range testRecords {
		seq := first + uint64(i)
		b = appendFrame(b, testEpoch, seq, seq-1, ops...)
	}
	return b
}

func scanAll(data []byte, last bool) (records [][]op, end int, err error) {
	end, _, err = scanSegment("log", data, last, func(seq uint64, ops []op) { records = append(records, ops) })
	return records, end, err
}

func TestScanSegment(t *testing.T) {
	whole := testSegment(7)
	zeros := make([]byte, 100)
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 4
		return b
	}
	frame := func(seq, durable uint64) []byte {
		return appendFrame(nil, testEpoch, seq, durable, op{kind: opDelete, document: "c", at: phext.Origin})
	}
	next := uint64(7 + len(testRecords))
	for name, tc := range map[string]struct {
		data    []byte
		follows bool // by another segment
		want    int  // records; -1 where the segment is corrupt
	}{
		"empty file":                  {nil, false, -1},
		"header cut":                  {whole[:20], false, -1},
		"header damaged":              {cat(flip(whole, 9), zeros), false, -1},
		"no room after the end":       {whole, false, -1},
		"last record cut":             {whole[:len(whole)-1], false, -1},
		"first record damaged":        {cat(flip(whole, segmentHeader+40), zeros), false, -1},
		"length damaged":              {cat(flip(whole, segmentHeader+4), zeros), false, -1},
		"torn, but not the last":      {cat(whole, flip(frame(next, next-1), 3), zeros), true, -1},
		"unknown operation":           {cat(whole, appendFrame(nil, testEpoch, next, next-1, op{kind: 99}), zeros), false, -1},
		"whole":                       {cat(whole, zeros), false, len(testRecords)},
		"whole, not the last":         {cat(whole, zeros), true, len(testRecords)},
		"last record damaged":         {cat(flip(whole, len(whole)-1), zeros), false, len(testRecords) - 1},
		"torn batch, hole in it":      {cat(whole, flip(frame(next, next-1), 30), frame(next+1, next-1), zeros), false, len(testRecords)},
		"torn batch, start missing":   {cat(whole, make([]byte, 60), frame(next+1, next-1), zeros), false, len(testRecords)},
		"stale record":                {cat(whole, frame(7, 6), zeros), false, len(testRecords)},
		"record of another epoch":     {cat(whole, appendFrame(nil, [8]byte{9}, next, next-1, op{kind: opMark}), zeros), false, len(testRecords)},
		"later record calls it saved": {cat(whole, flip(frame(next, next-1), 30), frame(next+1, next), zeros), false, -1},
	} {
		t.Run(name, func(t *testing.T) {
			records, _, err := scanAll(tc.data, !tc.follows)
			var corrupt *CorruptError
			if tc.want < 0 {
				if !errors.As(err, &corrupt) {
					t.Fatalf("%d records and error %v, want a CorruptError", len(records), err)
				}
				return
			}
			if err != nil || len(records) != tc.want {
				t.Fatalf("%d records and error %v, want %d", len(records), err, tc.want)
			}
			for i, ops := range records {
				if !reflect.DeepEqual(ops, testRecords[i]) {
					t.Errorf("record %d is %+v, want %+v", i, ops, testRecords[i])
				}
			}
		})
	}
}

// FuzzLog reads arbitrary bytes as a segment, and as what follows valid records
// in one.
func FuzzLog(f *testing.F) {
	f.Add([]byte{})
	f.Add(testSegment(7))
	f.Add(append(testSegment(1), make([]byte, 100)...))
	f.Add(appendFrame(nil, testEpoch, 14, 13, op{kind: opMark}))
	f.Add(appendOp(nil, op{kind: opKey, key: testKey})[:keySize]) // cut short
	f.Add(appendFrame(nil, testEpoch, 15, 13, op{kind: opPut, document: "x", at: phext.Origin, text: []byte("x")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		scanAll(data, true)
		scanAll(data, false)
		decodeOps(data)
		records, end, err := scanAll(append(testSegment(7), data...), true)
		if len(records) < len(testRecords) {
			t.Fatalf("%d records before arbitrary bytes, want %d", len(records), len(testRecords))
		}
		for i, ops := range testRecords {
			if !reflect.DeepEqual(records[i], ops) {
				t.Fatalf("record %d is %+v, want %+v", i, records[i], ops)
			}
		}
		if err == nil && end < len(testSegment(7)) {
			t.Fatalf("the log would be cut at %d, among valid records", end)
		}
	})
}
