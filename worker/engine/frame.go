package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"sync"

	"github.com/sqedge/sqedge/shared/phext"
)

// A segment of the log is a header and then frames, all numbers little endian:
//
//	segment:  8 magic and version, 8 epoch, 8 first sequence, 4 CRC-32C of these, 4 zero
//	frame:    4 check, 4 payload length, 8 sequence, 8 durable, 4 payload CRC-32C, payload
//
// check is the CRC-32C of the segment's epoch and the header's other 24 bytes.
// The epoch is random for each segment, so neither a stale block nor text that a
// client shaped like a frame verifies by accident or by design, and a header is
// judged without reading what it claims as its payload. durable is the highest
// sequence known to be synced when the frame was written.
//
// A frame is one record: one or more operations that hold all together or not
// at all. Sequences go up by one from frame to frame, across segments.
const (
	segmentMagic  = "sqlog\x00\x00\x01"
	segmentHeader = 32
	frameHeader   = 28

	// maxPayload bounds a record and maxText a write, in bytes: far above what
	// a worker accepts.
	maxPayload = 1 << 30
	maxText    = maxPayload / 2
)

// castagnoli returns the table of CRC-32C, which takes a quarter of a millisecond to
// make: a worker of a tenant who only reads may never need it.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// checkHeader is the CRC-32C of a segment's header, without that table: an empty log,
// as a worker that was parked leaves it, is read at most starts.
func checkHeader(header []byte) uint32 {
	sum := ^uint32(0)
	for _, b := range header {
		sum ^= uint32(b)
		for range 8 {
			sum = sum>>1 ^ crc32.Castagnoli&-(sum&1)
		}
	}
	return ^sum
}

// opKind is the first byte of an operation.
type opKind uint8

const (
	opMark   opKind = iota + 1 // nothing; carries durable
	opBase                     // the document's file is this one
	opIntent                   // the document's file is about to be renamed to this one
	opAppend
	opPut
	opDelete
	opKey // a write was made that carries this key
)

// fileRecord identifies one version of a document's file.
type fileRecord struct {
	exists bool
	seq    uint64   // the file holds the document's changes up to this one
	size   int64    // bytes
	hash   [16]byte // xxh3-128
}

// same reports whether both describe the same bytes.
func (r fileRecord) same(o fileRecord) bool {
	return r.exists == o.exists && r.size == o.size && r.hash == o.hash
}

// op is one operation of a record.
type op struct {
	kind     opKind
	document string
	at       phext.Coordinate
	text     []byte     // opAppend, opPut
	file     fileRecord // opBase, opIntent
	key      *keyed     // opKey
}

func appendOp(dst []byte, o op) []byte {
	dst = append(dst, byte(o.kind))
	switch o.kind {
	case opMark:
		return dst
	case opKey:
		return appendKey(dst, o.key)
	}
	dst = append(dst, byte(len(o.document)))
	dst = append(dst, o.document...)
	switch o.kind {
	case opBase, opIntent:
		exists := byte(0)
		if o.file.exists {
			exists = 1
		}
		dst = append(dst, exists)
		dst = binary.LittleEndian.AppendUint64(dst, o.file.seq)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(o.file.size))
		return append(dst, o.file.hash[:]...)
	}
	for _, n := range o.at {
		dst = binary.LittleEndian.AppendUint16(dst, n)
	}
	if o.kind == opDelete {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(len(o.text)))
	return append(dst, o.text...)
}

var errOp = errors.New("a record's operation is cut short")

// decodeOps reads a payload. The texts share its memory.
func decodeOps(payload []byte) ([]op, error) {
	var ops []op
	for len(payload) > 0 {
		o := op{kind: opKind(payload[0])}
		payload = payload[1:]
		if o.kind == opMark {
			ops = append(ops, o)
			continue
		}
		if o.kind == opKey {
			if len(payload) < keySize {
				return nil, errOp
			}
			o.key, payload = readKey(payload), payload[keySize:]
			ops = append(ops, o)
			continue
		}
		if o.kind > opKey || o.kind == 0 {
			return nil, fmt.Errorf("a record has operation %d, which this version does not know", o.kind)
		}
		if len(payload) == 0 || len(payload) < 1+int(payload[0]) {
			return nil, errOp
		}
		n := int(payload[0])
		o.document, payload = string(payload[1:1+n]), payload[1+n:]
		switch o.kind {
		case opBase, opIntent:
			if len(payload) < 33 {
				return nil, errOp
			}
			o.file.exists = payload[0] == 1
			o.file.seq = binary.LittleEndian.Uint64(payload[1:])
			o.file.size = int64(binary.LittleEndian.Uint64(payload[9:]))
			copy(o.file.hash[:], payload[17:33])
			payload = payload[33:]
			ops = append(ops, o)
			continue
		}
		if len(payload) < 2*phext.Dimensions {
			return nil, errOp
		}
		for d := range o.at {
			o.at[d] = binary.LittleEndian.Uint16(payload[2*d:])
			if o.at[d] == 0 {
				return nil, errors.New("a record has a coordinate with a zero")
			}
		}
		payload = payload[2*phext.Dimensions:]
		if o.kind != opDelete {
			size, n := binary.Uvarint(payload)
			if n <= 0 || size > uint64(len(payload)-n) {
				return nil, errOp
			}
			o.text, payload = payload[n:n+int(size):n+int(size)], payload[n+int(size):]
		}
		ops = append(ops, o)
	}
	return ops, nil
}

// appendFrame appends one record.
func appendFrame(dst []byte, epoch [8]byte, seq, durable uint64, ops ...op) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, frameHeader)...)
	for _, o := range ops {
		dst = appendOp(dst, o)
	}
	h, payload := dst[start:start+frameHeader], dst[start+frameHeader:]
	binary.LittleEndian.PutUint32(h[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(h[8:], seq)
	binary.LittleEndian.PutUint64(h[16:], durable)
	binary.LittleEndian.PutUint32(h[24:], crc32.Checksum(payload, castagnoli()))
	binary.LittleEndian.PutUint32(h, checkFrame(epoch, h))
	return dst
}

func checkFrame(epoch [8]byte, header []byte) uint32 {
	return crc32.Update(crc32.Checksum(epoch[:], castagnoli()), castagnoli(), header[4:frameHeader])
}

type frame struct {
	seq, durable uint64
	payload      []byte
	size         int // bytes, header included
}

// readFrame reads the frame that b begins with; ok is false unless all of it
// verifies.
func readFrame(b []byte, epoch [8]byte) (f frame, ok bool) {
	if len(b) < frameHeader {
		return f, false
	}
	size := binary.LittleEndian.Uint32(b[4:])
	if size == 0 || size > maxPayload || int(size) > len(b)-frameHeader {
		return f, false
	}
	if binary.LittleEndian.Uint32(b) != checkFrame(epoch, b[:frameHeader]) {
		return f, false
	}
	f.size = frameHeader + int(size)
	f.payload = b[frameHeader:f.size:f.size]
	f.seq = binary.LittleEndian.Uint64(b[8:])
	f.durable = binary.LittleEndian.Uint64(b[16:])
	return f, f.durable < f.seq && crc32.Checksum(f.payload, castagnoli()) == binary.LittleEndian.Uint32(b[24:])
}

// frames yields the frames of b that verify, each with its offset, and passes
// over what does not.
func frames(b []byte, epoch [8]byte) iter.Seq2[int, frame] {
	return func(yield func(int, frame) bool) {
		for at := 0; at+frameHeader <= len(b); {
			f, ok := readFrame(b[at:], epoch)
			if !ok {
				at++
				continue
			}
			if !yield(at, f) {
				return
			}
			at += f.size
		}
	}
}

// beyond reports whether b begins with a frame that verifies as far as its
// header goes and is longer than b.
func beyond(b []byte, epoch [8]byte) bool {
	return int(binary.LittleEndian.Uint32(b[4:])) > len(b)-frameHeader &&
		binary.LittleEndian.Uint32(b) == checkFrame(epoch, b[:frameHeader])
}

func appendSegmentHeader(dst []byte, epoch [8]byte, first uint64) []byte {
	start := len(dst)
	dst = append(dst, segmentMagic...)
	dst = append(dst, epoch[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, first)
	dst = binary.LittleEndian.AppendUint32(dst, checkHeader(dst[start:]))
	return append(dst, 0, 0, 0, 0)
}

func readSegmentHeader(b []byte) (epoch [8]byte, first uint64, ok bool) {
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic ||
		checkHeader(b[:24]) != binary.LittleEndian.Uint32(b[24:]) {
		return epoch, 0, false
	}
	copy(epoch[:], b[8:16])
	return epoch, binary.LittleEndian.Uint64(b[16:]), true
}

// scanSegment calls record for each record of a segment, in order, and returns
// where they end and the sequence that comes next. last says that no segment
// follows, which is the only place where a torn batch may be.
//
// At a frame that does not verify the rest decides. All zero: the end. Else, if
// any later frame says that this one was durable when it was written, or if a
// later segment exists, the disk has lost what it had confirmed and the error is
// a *[CorruptError]. Otherwise it belongs to the batch that was being written
// when the machine stopped, which nobody was told about: the log ends there.
func scanSegment(name string, data []byte, last bool, record func(seq uint64, ops []op)) (end int, next uint64, err error) {
	epoch, next, ok := readSegmentHeader(data)
	if !ok {
		// A segment gets its name only after its header was synced.
		return 0, 0, &CorruptError{File: name, Reason: "its header does not verify"}
	}
	at := segmentHeader
	for {
		f, ok := readFrame(data[at:], epoch)
		if !ok || f.seq != next {
			break
		}
		ops, err := decodeOps(f.payload)
		if err != nil {
			return 0, 0, &CorruptError{File: name, Offset: int64(at), Reason: err.Error()}
		}
		record(f.seq, ops)
		next++
		at += f.size
	}
	rest := data[at:]
	if len(rest) < frameHeader || !zero(rest[len(rest)-frameHeader:]) || beyond(rest, epoch) {
		// A segment is made longer, and that is synced, before records come
		// within a frame's header of its end: someone cut it.
		return 0, 0, &CorruptError{File: name, Offset: int64(len(data)), Reason: "it was cut short"}
	}
	if zero(rest) {
		return at, next, nil
	}
	if !last {
		return 0, 0, &CorruptError{File: name, Offset: int64(at), Reason: "a record does not verify, and later segments exist"}
	}
	for _, f := range frames(rest[1:], epoch) {
		if f.durable >= next {
			return 0, 0, &CorruptError{File: name, Offset: int64(at), Reason: fmt.Sprintf("record %d does not verify, and record %d says that it was synced", next, f.seq)}
		}
	}
	return at, next, nil
}

// confirmed returns where the records of a segment end that one of them says
// were synced. All of data verifies.
func confirmed(data []byte, epoch [8]byte) int64 {
	var durable uint64
	for _, f := range frames(data[segmentHeader:], epoch) {
		durable = f.durable
	}
	for at, f := range frames(data[segmentHeader:], epoch) {
		if f.seq > durable {
			return int64(segmentHeader + at)
		}
	}
	return int64(len(data))
}

func zero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
