package engine

import (
	"encoding/hex"
	"fmt"
	"unicode/utf8"
)

// Record is one operation of the log, as `sq-worker dump` prints it. A record of
// the log with several operations is several of these with the same Seq.
type Record struct {
	Segment  string `json:"segment"` // name in the .sq folder
	Offset   int    `json:"offset"`  // of the record in the segment, in bytes
	Seq      uint64 `json:"seq"`
	Durable  uint64 `json:"durable"` // the sequence up to which the log was known to be on disk when this was written
	Op       string `json:"op"`      // mark, base, intent, append, put or delete
	Document string `json:"document,omitempty"`

	// Of append, put and delete.
	Coordinate string  `json:"coordinate,omitempty"`
	Text       *string `json:"text,omitempty"`     // of append and put
	TextRaw    []byte  `json:"text_raw,omitempty"` // instead of Text where that is not UTF-8; base64 in JSON

	// Of base and intent.
	File *FileRecord `json:"file,omitempty"`
}

// FileRecord is what the log says about a document's file.
type FileRecord struct {
	Exists bool   `json:"exists"`
	Seq    uint64 `json:"seq"`   // the file holds the document's changes up to this one
	Bytes  int64  `json:"bytes"` // its length
	Hash   string `json:"hash"`  // its xxh3-128, 32 hex digits
}

var opNames = [...]string{opMark: "mark", opBase: "base", opIntent: "intent", opAppend: "append", opPut: "put", opDelete: "delete"}

func newRecord(s *segment, at int, f frame, o op) Record {
	r := Record{Segment: s.name(), Offset: at, Seq: f.seq, Durable: f.durable, Op: opNames[o.kind], Document: o.document}
	switch o.kind {
	case opMark:
	case opBase, opIntent:
		r.File = &FileRecord{o.file.exists, o.file.seq, o.file.size, hex.EncodeToString(o.file.hash[:])}
	default:
		r.Coordinate = o.at.String()
		if !utf8.Valid(o.text) {
			r.TextRaw = o.text
		} else if o.kind != opDelete {
			text := string(o.text)
			r.Text = &text
		}
	}
	return r
}

// Dump calls fn for every record of the log of the data directory at path that
// verifies, in order, and stops at its first error. With a document it passes
// over what does not concern that one. The findings say where the log is
// damaged. It changes nothing; see [Check] about a worker that runs.
func Dump(path, document string, fn func(Record) error) ([]Finding, error) {
	o, err := openOffline(path)
	if err != nil {
		return nil, err
	}
	defer o.close()
	err = o.readLog(func(r Record) error {
		if document != "" && r.Document != document {
			return nil
		}
		return fn(r)
	})
	for _, lost := range o.lost {
		o.damage(controlFolder, fmt.Sprintf("%v missing", lost))
	}
	return o.findings, err
}
