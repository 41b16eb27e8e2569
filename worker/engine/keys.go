package engine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/sqedge/sqedge/shared/phext"
)

// A write may carry a key of its client's. What it did is then kept with the key,
// in the same record of the log, and the same write with the same key does
// nothing but tell that again: so a client, or the edge, that got no answer can
// repeat a write without knowing whether it was made.
//
// A key is taken while its write is under way, and its receipt entered by whoever
// commits the write. A write that failed leaves nothing.

const (
	keyLife = 24 * time.Hour // that a key is kept for

	// maxKeys bounds the keys that are kept at a time. Beyond it a write with a
	// new one is refused: to forget one early would be to make its write twice.
	maxKeys = 100_000

	keyCost = 144 // bytes of memory that a key is reckoned at: measured, and rounded up
)

// Key stands for an idempotency key. The zero Key is none.
type Key [16]byte

// KeyOf returns the Key of a text: its XXH3-128.
func KeyOf(text string) Key { return xxh3.HashString128(text).Bytes() }

// ErrKeyReused means that a key was used for another write.
var ErrKeyReused = errors.New("the key was used for another write")

// KeysFullError says that as many keys are kept as may be.
type KeysFullError struct {
	Kept       int
	RetryAfter time.Duration // until the oldest is forgotten
}

func (e *KeysFullError) Error() string {
	return fmt.Sprintf("%d keys are kept, which is the most: the oldest is forgotten in %v", e.Kept, e.RetryAfter)
}

// receipt is what is known of a write that was made.
type receipt struct {
	request  [16]byte // its fingerprint
	time     int64    // when it was made, in Unix seconds
	seq      uint64   // Result.Seq
	bytes    int64    // Result.Bytes
	checksum [16]byte // Result.Checksum; zero for none
}

// keyed is a key with its receipt: an operation of the log.
type keyed struct {
	key Key
	receipt
}

// size is what it adds to a record.
func (k *keyed) size() int64 {
	if k == nil {
		return 0
	}
	return 1 + keySize
}

func (r *receipt) live(now time.Time) bool { return r.time > now.Add(-keyLife).Unix() }

// result is the answer to a request that may be the one that was made.
func (r *receipt) result(request [16]byte) (Result, error) {
	if r.request != request {
		return Result{}, ErrKeyReused
	}
	result := Result{Bytes: r.bytes, Seq: r.seq, Replayed: true}
	if r.checksum != [16]byte{} {
		result.Checksum = hex.EncodeToString(r.checksum[:])
	}
	return result, nil
}

// What a fingerprint begins with for the writes of whole documents; for others
// it is the operation's kind.
const (
	wholeReplace opKind = 0x80
	wholeRemove  opKind = 0x81
)

// fingerprint tells requests apart: it is the XXH3-128 of the kind, the
// document, the coordinate and the XXH3-128 of the text.
func fingerprint(kind opKind, document string, at phext.Coordinate, text [16]byte) [16]byte {
	b := appendOp(nil, op{kind: kind, document: document, at: at, text: text[:]})
	return xxh3.Hash128(b).Bytes()
}

// keys are those of a tenant, guarded by the engine's mu.
type keys struct {
	receipts map[Key]receipt
	flights  map[Key]chan struct{} // of the writes under way; closed when they end
	oldest   int64                 // no receipt is of an earlier second
	held     int64                 // bytes of memory that they are accounted with

	file keyFile
}

// Once makes writes that carry a key.
type Once struct {
	e   *Engine
	key Key
}

// Once returns what makes the one write of a key. Where that was made before, its
// methods change nothing and return what it did, with [Result.Replayed] set; while
// it is under way they wait. The error is then [ErrKeyReused] if it is not the same
// write, down to the last byte of its text, and a *[KeysFullError] where it is a
// new one and too many are kept. Else they are as the methods of [Engine] of these
// names. The zero Key makes plain writes.
func (e *Engine) Once(key Key) Once { return Once{e, key} }

// Append is [Engine.Append] once.
func (o Once) Append(ctx context.Context, document string, at phext.Coordinate, text []byte, quota int64) (Result, error) {
	return o.change(ctx, document, change{opAppend, at, text, quota})
}

// Put is [Engine.Put] once.
func (o Once) Put(ctx context.Context, document string, at phext.Coordinate, text []byte, quota int64) (Result, error) {
	return o.change(ctx, document, change{opPut, at, text, quota})
}

// Delete is [Engine.Delete] once.
func (o Once) Delete(ctx context.Context, document string, at phext.Coordinate) (Result, error) {
	return o.change(ctx, document, change{kind: opDelete, at: at})
}

func (o Once) change(ctx context.Context, document string, ch change) (Result, error) {
	if o.key == (Key{}) {
		return o.e.mutate(ctx, document, ch, nil)
	}
	request := fingerprint(ch.kind, document, ch.at, xxh3.Hash128(ch.text).Bytes())
	return o.make(ctx, request, func(k *keyed) (Result, error) { return o.e.mutate(ctx, document, ch, k) })
}

// Replace is [Engine.Replace] once.
func (o Once) Replace(ctx context.Context, document string, body io.Reader, quota int64) (Result, error) {
	if o.key == (Key{}) {
		return o.e.replaceWhole(ctx, document, body, quota, nil)
	}
	known, k, err := o.begin(ctx)
	if err != nil {
		return Result{}, err
	}
	if known != nil {
		// The quota may have no room by now for what was made long ago.
		h := xxh3.New()
		if _, err := io.Copy(h, body); err != nil {
			return Result{}, fmt.Errorf("receive the document: %w", err)
		}
		return known.result(fingerprint(wholeReplace, document, phext.Coordinate{}, h.Sum128().Bytes()))
	}
	defer o.end()
	return o.e.replaceWhole(ctx, document, body, quota, k)
}

// Remove is [Engine.Remove] once.
func (o Once) Remove(ctx context.Context, document string) (Result, error) {
	if o.key == (Key{}) {
		return o.e.remove(ctx, document, nil)
	}
	request := fingerprint(wholeRemove, document, phext.Coordinate{}, [16]byte{})
	return o.make(ctx, request, func(k *keyed) (Result, error) { return o.e.remove(ctx, document, k) })
}

// make makes the write whose request has this fingerprint, unless it was made.
func (o Once) make(ctx context.Context, request [16]byte, write func(*keyed) (Result, error)) (Result, error) {
	known, k, err := o.begin(ctx)
	switch {
	case err != nil:
		return Result{}, err
	case known != nil:
		return known.result(request)
	}
	defer o.end()
	k.request = request
	return write(k)
}

// begin returns the receipt of the key's write if that was made. Else it takes the
// key, and end must be called when the write was made or has failed.
func (o Once) begin(ctx context.Context) (known *receipt, k *keyed, err error) {
	e := o.e
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		e.mu.Lock()
		now := e.opts.now()
		if r, ok := e.keys.receipts[o.key]; ok && r.live(now) {
			e.mu.Unlock()
			return &r, nil, nil
		}
		flight := e.keys.flights[o.key]
		if flight == nil {
			if err = e.admitKeyLocked(now); err == nil {
				e.keys.flights[o.key] = make(chan struct{})
				k = &keyed{key: o.key, receipt: receipt{time: now.Unix()}}
			}
			e.mu.Unlock()
			return nil, k, err
		}
		e.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
		}
	}
}

func (o Once) end() {
	o.e.mu.Lock()
	defer o.e.mu.Unlock()
	close(o.e.keys.flights[o.key])
	delete(o.e.keys.flights, o.key)
}

// admitKeyLocked says whether another key may be kept.
func (e *Engine) admitKeyLocked(now time.Time) error {
	kept := func() int { return len(e.keys.receipts) + len(e.keys.flights) }
	oldest := receipt{time: e.keys.oldest}
	if kept() >= e.opts.keys && !oldest.live(now) {
		e.forgetLocked(now)
	}
	if n := kept(); n >= e.opts.keys {
		return &KeysFullError{n, max(time.Unix(e.keys.oldest, 0).Add(keyLife).Sub(now), time.Second)}
	}
	return nil
}

// forgetLocked drops the keys that have had their time. It makes the table anew,
// for a map keeps its memory.
func (e *Engine) forgetLocked(now time.Time) {
	old := e.keys.receipts
	e.keys.receipts, e.keys.oldest = make(map[Key]receipt), now.Unix()
	for key, r := range old {
		if r.live(now) {
			e.keys.enter(&keyed{key, r})
		}
	}
	e.accountKeysLocked()
}

func (ks *keys) enter(k *keyed) {
	ks.receipts[k.key] = k.receipt
	ks.oldest = min(ks.oldest, k.time)
}

// rememberLocked enters the keys of a batch that is durable.
func (e *Engine) rememberLocked(all []*keyed) {
	for _, k := range all {
		e.keys.enter(k)
	}
	if len(all) > 0 {
		e.accountKeysLocked()
	}
}

// accountKeysLocked brings the account of memory up to date: with at most a
// quarter of the budget, so that a small one is not used up by them.
func (e *Engine) accountKeysLocked() {
	held := min(int64(len(e.keys.receipts))*keyCost, e.opts.Memory/4)
	less := held < e.keys.held
	e.memory.held += held - e.keys.held
	e.keys.held = held
	if less {
		e.memory.wakeLocked()
	}
}

// keepLocked puts the key of a write that was just ordered into its record, or
// into one of its own where there is none. It gives the caller, who holds
// committing, until the batch is written to fill in the checksum; see seal.
func (e *Engine) keepLocked(w *write, changed bool) error {
	w.key.seq, w.key.bytes = w.result.Seq, w.result.Bytes
	if changed {
		w.key.checksum = [16]byte{}
		e.pending.attach(w.key, true)
		return nil
	}
	w.key.seal(w.scroll) // which may be in the file, and so unreadable: before it is logged
	if !e.claimLocked(frameHeader + w.key.size()) {
		return errNoRoom
	}
	e.addKeyLocked(w.key)
	return nil
}

// seal notes the checksum of the scroll that the write leads to.
func (k *keyed) seal(scroll []byte) {
	if k.checksum = [16]byte{}; len(scroll) > 0 {
		k.checksum = xxh3.Hash128(scroll).Bytes()
	}
}

// attach puts a key into the batch's last record, with the room that was claimed
// for it. One that does not hold yet needs a second record that says that it does:
// see keyFile.note.
func (b *batch) attach(k *keyed, holds bool) {
	if k == nil {
		return
	}
	r := &b.records[len(b.records)-1]
	r.more = append(r.more, operation{op: op{kind: opKey, key: k}})
	b.claimed += k.size()
	if holds {
		b.keys = append(b.keys, k)
	}
}

// addKeyLocked gives a key a record of its own in the pending batch, for which the
// caller has claimed frameHeader and its size.
func (e *Engine) addKeyLocked(k *keyed) *batch {
	e.seq++
	b := e.pending
	b.records = append(b.records, record{seq: e.seq, op: op{kind: opKey, key: k}})
	b.claimed += frameHeader + k.size()
	b.keys = append(b.keys, k)
	return b
}

// logKey logs the key of a write that changes nothing, because there is no
// document, and waits until it is durable.
func (e *Engine) logKey(k *keyed) error {
	if err := e.claim(frameHeader + k.size()); err != nil {
		return err
	}
	e.mu.Lock()
	err := e.usable()
	var b *batch
	if err == nil {
		b = e.addKeyLocked(k)
	}
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.hasten()
	return b.wait()
}
