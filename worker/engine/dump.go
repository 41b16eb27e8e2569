package engine

import (
	"encoding/hex"
	"fmt"
	"time"
	"unicode/utf8"
)

// Record is one operation of the log, as `sq-worker dump` prints it. A record of
// the log with several operations is several of these with the same Seq.
type Record struct {
	Segment  string `json:"segment"` // name in the .sq folder
	Offset   int    `json:"offset"`  // of the record in the segment, in bytes
	Seq      uint64 `json:"seq"`
	Durable  uint64 `json:"durable"` // the sequence up to which the log was known to be on disk when this was written
	Op       string `json:"op"`      // mark, base, intent, append, put, delete or key
	Document string `json:"document,omitempty"`

	// Of append, put and delete.
	Coordinate string  `json:"coordinate,omitempty"`
	Text       *string `json:"text,omitempty"`     // of append and put
	TextRaw    []byte  `json:"text_raw,omitempty"` // instead of Text where that is not UTF-8; base64 in JSON

	// Of base and intent.
	File *FileRecord `json:"file,omitempty"`

	Key *KeyRecord `json:"key,omitempty"` // of key
}

// KeyRecord is what the log says about a write that carried a key.
type KeyRecord struct {
	Hash     string `json:"hash"`    // XXH3-128 of the key, 32 hex digits
	Request  string `json:"request"` // fingerprint of the request, likewise
	Time     string `json:"time"`    // when it was made, RFC 3339, UTC
	Seq      uint64 `json:"seq"`     // as it was answered
	Bytes    int64  `json:"bytes"`
	Checksum string `json:"checksum,omitempty"` // of the scroll that it led to, if there was one
}

// FileRecord is what the log says about a document's file.
type FileRecord struct {
	Exists bool   `json:"exists"`
	Seq    uint64 `json:"seq"`   // the file holds the document's changes up to this one
	Bytes  int64  `json:"bytes"` // its length
	Hash   string `json:"hash"`  // its xxh3-128, 32 hex digits
}

var opNames = [...]string{opMark: "mark", opBase: "base", opIntent: "intent", opAppend: "append", opPut: "put", opDelete: "delete", opKey: "key"}

func newRecord(s *segment, at int, f frame, o op) Record {
	r := Record{Segment: s.name(), Offset: at, Seq: f.seq, Durable: f.durable, Op: opNames[o.kind], Document: o.document}
	switch o.kind {
	case opMark:
	case opKey:
		r.Key = newKeyRecord(o.key)
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

func newKeyRecord(k *keyed) *KeyRecord {
	r := &KeyRecord{
		Hash: hex.EncodeToString(k.key[:]), Request: hex.EncodeToString(k.request[:]),
		Time: time.Unix(k.time, 0).UTC().Format(time.RFC3339), Seq: k.seq, Bytes: k.bytes,
	}
	if k.checksum != [16]byte{} {
		r.Checksum = hex.EncodeToString(k.checksum[:])
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
