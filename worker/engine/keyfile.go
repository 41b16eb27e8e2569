package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// keysFile, in the control folder, holds the keys of segments that are gone: all
// that were live when it was written. It is written anew, whole, before a segment
// goes that has keys which it lacks.
//
//	8 magic and version, 8 sequence, keys, 4 CRC-32C of all before
//
// The keys of records up to the sequence are in it.
const (
	keysFile  = "keys"
	keysMagic = "sqkeys\x00\x01"

	keySize    = 16 + 16 + 8 + 8 + 8 + 16
	keysHeader = 16
)

// keyFile is the state of the file, and of what the log says beyond it.
type keyFile struct {
	saved     uint64 // the file has the keys of records up to this one
	busy      bool   // it is being written, or the engine is being opened
	unsettled int    // replacements and removals between their intent and their base

	doubts  map[Key]doubt // while the log is read
	confirm []*keyed      // to be logged before anything else is
}

// doubt is the key of a replacement or removal of which the log has the intent,
// and nothing since that says whether it was made.
type doubt struct {
	keyed
	document string
	file     fileRecord
}

func appendKey(dst []byte, k *keyed) []byte {
	dst = append(dst, k.key[:]...)
	dst = append(dst, k.request[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(k.time))
	dst = binary.LittleEndian.AppendUint64(dst, k.seq)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(k.bytes))
	return append(dst, k.checksum[:]...)
}

// readKey reads the first keySize bytes of b.
func readKey(b []byte) *keyed {
	k := new(keyed)
	copy(k.key[:], b)
	copy(k.request[:], b[16:])
	k.time = int64(binary.LittleEndian.Uint64(b[32:]))
	k.seq = binary.LittleEndian.Uint64(b[40:])
	k.bytes = int64(binary.LittleEndian.Uint64(b[48:]))
	copy(k.checksum[:], b[56:])
	return k
}

// encode returns the file that holds the live keys of records up to seq.
func (ks *keys) encode(seq uint64, now time.Time) []byte {
	b := make([]byte, 0, keysHeader+len(ks.receipts)*keySize+4)
	b = append(b, keysMagic...)
	b = binary.LittleEndian.AppendUint64(b, seq)
	for key, r := range ks.receipts {
		if r.live(now) {
			b = appendKey(b, &keyed{key, r})
		}
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

// decode enters the keys of a file.
func (ks *keys) decode(b []byte, now time.Time) error {
	end := len(b) - 4
	if end < keysHeader || string(b[:8]) != keysMagic || (end-keysHeader)%keySize != 0 ||
		crc32.Checksum(b[:end], castagnoli()) != binary.LittleEndian.Uint32(b[end:]) {
		return &CorruptError{File: keysFile, Reason: "it does not verify"}
	}
	ks.file.saved = binary.LittleEndian.Uint64(b[8:])
	for b = b[keysHeader:end]; len(b) > 0; b = b[keySize:] {
		if k := readKey(b); k.live(now) {
			ks.enter(k)
		}
	}
	return nil
}

// init makes an empty table.
func (ks *keys) init(now time.Time) {
	*ks = keys{receipts: make(map[Key]receipt), flights: make(map[Key]chan struct{}), oldest: now.Unix()}
	ks.file = keyFile{busy: true, doubts: make(map[Key]doubt)}
}

// readKeys reads the file, if there is one.
func (e *Engine) readKeys() error {
	now := e.opts.now()
	e.keys.init(now)
	f, err := e.control.open(keysFile, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s/%s: %w", controlFolder, keysFile, foreign(err))
	}
	defer f.Close()
	id, err := identityOfFile(f)
	if err == nil && !id.regular {
		err = foreign(ErrNotRegular)
	}
	if err != nil {
		return fmt.Errorf("open %s/%s: %w", controlFolder, keysFile, err)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read %s/%s: %w", controlFolder, keysFile, err)
	}
	return e.keys.decode(data, now)
}

// note takes up what a record of the log says. A key that stands beside an intent
// holds if the intent's file got its name. That is so if the next that the log
// says of the document comes with the same key; and it is not so if it comes
// without; and if there is nothing more, the file tells.
func (ks *keys) note(s *segment, seq uint64, ops []op, now time.Time) {
	var intent *op
	for i, o := range ops {
		switch o.kind {
		case opMark:
		case opKey:
			s.keyed = seq
			switch {
			case !o.key.live(now):
			case intent != nil:
				ks.file.doubts[o.key.key] = doubt{*o.key, intent.document, intent.file}
			default:
				delete(ks.file.doubts, o.key.key)
				ks.enter(o.key)
			}
		default:
			if o.kind == opIntent {
				intent = &ops[i]
			}
			for key, d := range ks.file.doubts {
				if d.document == o.document {
					delete(ks.file.doubts, key)
				}
			}
		}
	}
}

// settleKeys looks which of the replacements and removals that the log ends with
// were made. The documents with changes that their files lack are open already.
func (e *Engine) settleKeys() {
	for _, d := range e.keys.file.doubts {
		if e.inPlace(d.document, d.file) {
			k := d.keyed
			e.keys.enter(&k)
			e.keys.file.confirm = append(e.keys.file.confirm, &k)
		}
	}
	e.keys.file.doubts = nil
	e.accountKeysLocked()
}

// inPlace reports whether a document's file is this one.
func (e *Engine) inPlace(document string, file fileRecord) bool {
	if d := e.docs[document]; d != nil && d.now != nil {
		return d.now.base.record.same(file)
	}
	b, err := openBase(e.dir, document, e.opts.layout)
	if err != nil {
		return false
	}
	defer b.release()
	return b.record.same(file)
}

// confirmSize is the room in the log for confirmLocked.
func (e *Engine) confirmSize() (n int64) {
	for _, k := range e.keys.file.confirm {
		n += frameHeader + k.size()
	}
	return n
}

// confirmLocked logs the keys that the files have confirmed, before anything is
// logged that would say otherwise.
func (e *Engine) confirmLocked() (last *batch) {
	for _, k := range e.keys.file.confirm {
		last = e.addKeyLocked(k)
	}
	e.keys.file.confirm = nil
	if last != nil {
		notify(e.wake)
	}
	return last
}

// keysOpened lets the file be written from now on.
func (e *Engine) keysOpened() {
	e.mu.Lock()
	e.keys.file.busy = false
	e.mu.Unlock()
	notify(e.untidy)
}

// unsettle counts replacements whose key does not hold yet. While there is one, no
// segment goes that has keys: it may be that one's.
func (e *Engine) unsettle(key *keyed, n int) {
	if key == nil {
		return
	}
	e.mu.Lock()
	e.keys.file.unsettled += n
	e.mu.Unlock()
	notify(e.untidy)
}

// keysSavedLocked reports whether the segments may go as far as their keys are
// concerned: those from the first on, up to n of them.
func (e *Engine) keysSavedLocked(n int) bool {
	for _, s := range e.wal.segments[:n] {
		if s.keyed > e.keys.file.saved {
			return false
		}
	}
	return true
}

// saveKeysLocked has the file written while the log goes on; then trim is called
// again. The caller holds committing, too, so that the table has every key up to
// the log's durable sequence.
func (e *Engine) saveKeysLocked() {
	f := &e.keys.file
	if f.busy || f.unsettled > 0 || e.err != nil {
		return
	}
	f.busy = true
	seq := e.wal.durable
	data := e.keys.encode(seq, e.opts.now())
	e.committer.Go(func() {
		err := e.writeKeys(data)
		e.mu.Lock()
		defer e.mu.Unlock()
		if f.busy = false; err == nil {
			f.saved = seq
			notify(e.untidy)
		} else if e.err == nil {
			e.log.Warn("cannot save the keys of writes; the log keeps them", zap.Error(err))
		}
	})
}

// saveKeysNow writes the file, if it lacks any, so that the log can be emptied.
// Nobody else uses the log.
func (e *Engine) saveKeysNow() error {
	e.mu.Lock()
	if e.keys.file.unsettled > 0 {
		e.mu.Unlock()
		return ErrClosed // came upon it halfway
	}
	saved := e.keysSavedLocked(len(e.wal.segments))
	data := e.keys.encode(e.wal.durable, e.opts.now())
	e.mu.Unlock()
	if saved {
		return nil
	}
	return e.writeKeys(data)
}

// writeKeys puts the file in place: whole and durable, or not at all.
func (e *Engine) writeKeys(data []byte) error {
	renamed, err := writeKeys(e.control, data)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("write %s/%s: %w", controlFolder, keysFile, err)
	if renamed {
		e.fail(err) // nobody knows which file a crash would leave
	}
	return err
}

func writeKeys(control directory, data []byte) (renamed bool, err error) {
	f, err := control.temp()
	if err != nil {
		return false, err
	}
	t := &tempFile{dir: control, f: f}
	defer t.close()
	if _, err = f.Write(data); err == nil {
		err = syncData(f)
	}
	if err == nil {
		err = control.rename(t.name(), control, keysFile)
	}
	if err != nil {
		return false, err
	}
	t.renamed = true
	return true, control.sync()
}
