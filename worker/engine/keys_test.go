package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/phext"
)

// keyedWrite is a write that may carry a key.
type keyedWrite struct {
	name string
	do   func(Once) (Result, error)
}

// keyedWrites are one of each kind, those included that change nothing. Each finds
// what the ones before it made.
var keyedWrites = []keyedWrite{
	{"append", func(o Once) (Result, error) { return o.Append(ctx, "a", phext.Origin, []byte("text"), 0) }},
	{"append of nothing", func(o Once) (Result, error) { return o.Append(ctx, "a", phext.Origin, nil, 0) }},
	{"put", func(o Once) (Result, error) { return o.Put(ctx, "a", place(2), []byte("put"), 0) }},
	{"put of nothing", func(o Once) (Result, error) { return o.Put(ctx, "a", place(2), nil, 0) }},
	{"delete", func(o Once) (Result, error) { return o.Delete(ctx, "a", phext.Origin) }},
	{"delete of nothing", func(o Once) (Result, error) { return o.Delete(ctx, "a", place(9)) }},
	{"delete in no document", func(o Once) (Result, error) { return o.Delete(ctx, "none", place(9)) }},
	{"replace", func(o Once) (Result, error) { return o.Replace(ctx, "whole", strings.NewReader("one\x17two"), 0) }},
	{"replace by the same", func(o Once) (Result, error) { return o.Replace(ctx, "whole", strings.NewReader("one\x17two"), 0) }},
	{"remove", func(o Once) (Result, error) { return o.Remove(ctx, "whole") }},
}

// mustReplay repeats writes, which must do nothing and answer as they did.
func mustReplay(t *testing.T, e *Engine, done map[string]Result) {
	t.Helper()
	before, err := e.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range keyedWrites {
		want, ok := done[w.name]
		if !ok {
			continue
		}
		want.Replayed = true
		if got, err := w.do(e.Once(KeyOf(w.name))); got != want || err != nil {
			t.Errorf("%s again: %+v, %v; want %+v", w.name, got, err, want)
		}
	}
	after, err := e.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if after.Seq != before.Seq || after.StorageBytes != before.StorageBytes || after.Documents != before.Documents {
		t.Errorf("the repetitions have changed something: %+v, then %+v", before, after)
	}
}

// TestRepeatedWriteIsMadeOnce repeats every kind of write with its key: at once,
// after others have changed what it changed, and after each way to start again.
func TestRepeatedWriteIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	done := map[string]Result{}
	for _, w := range keyedWrites {
		r, err := w.do(e.Once(KeyOf(w.name)))
		if err != nil || r.Replayed {
			t.Fatalf("%s: %+v, %v", w.name, r, err)
		}
		done[w.name] = r
		mustReplay(t, e, done)
	}
	// What is there now is not what the writes left: a repetition would show.
	MustPut(t, e, "a", origin, "since")
	MustPut(t, e, "none", "1.1.1/1.1.1/1.1.9", "since")
	MustPut(t, e, "whole", origin, "since")
	check := func(e *Engine) {
		t.Helper()
		mustReplay(t, e, done)
		shadow{phext.Origin: "since"}.check(t, e, "a")
		shadow{place(9): "since"}.check(t, e, "none")
		shadow{phext.Origin: "since"}.check(t, e, "whole")
	}
	check(e)
	for name, again := range map[string]func(){
		"crash": func() { e.abort() },
		"drain": func() { MustClose(t, e) },
		"drain of an unchanged log": func() {
			MustClose(t, e)
			e = MustOpen(t, dir)
			MustClose(t, e)
		},
		"checkpoint and crash": func() {
			MustAppend(t, e, "other", origin, "x")
			MustCheckpoint(t, e, "other")
			e.abort()
		},
	} {
		for range 2 {
			again()
			e = MustOpen(t, dir)
			if check(e); t.Failed() {
				t.Fatalf("after a %s", name)
			}
		}
	}
	if e.promised != 0 {
		t.Errorf("%d bytes of the log are promised to nobody", e.promised)
	}
}

// TestKeyOfAnotherRequest: a key belongs to one request, down to the last byte.
func TestKeyOfAnotherRequest(t *testing.T) {
	e := MustOpen(t, t.TempDir())
	key, whole, removed := e.Once(KeyOf("k")), e.Once(KeyOf("w")), e.Once(KeyOf("r"))
	_, err := key.Append(ctx, "a", phext.Origin, []byte("text"), 0)
	if err == nil {
		_, err = whole.Replace(ctx, "b", strings.NewReader("text"), 0)
	}
	if err == nil {
		_, err = removed.Remove(ctx, "b")
	}
	if err != nil {
		t.Fatal(err)
	}
	before := e.seq
	for name, do := range map[string]func() (Result, error){
		"text":              func() (Result, error) { return key.Append(ctx, "a", phext.Origin, []byte("tex"), 0) },
		"coordinate":        func() (Result, error) { return key.Append(ctx, "a", place(2), []byte("text"), 0) },
		"document":          func() (Result, error) { return key.Append(ctx, "b", phext.Origin, []byte("text"), 0) },
		"put":               func() (Result, error) { return key.Put(ctx, "a", phext.Origin, []byte("text"), 0) },
		"delete":            func() (Result, error) { return key.Delete(ctx, "a", phext.Origin) },
		"replace":           func() (Result, error) { return key.Replace(ctx, "a", strings.NewReader("text"), 0) },
		"remove":            func() (Result, error) { return key.Remove(ctx, "a") },
		"other replace":     func() (Result, error) { return whole.Replace(ctx, "b", strings.NewReader("texts"), 0) },
		"replace elsewhere": func() (Result, error) { return whole.Replace(ctx, "c", strings.NewReader("text"), 0) },
		"other remove":      func() (Result, error) { return removed.Remove(ctx, "a") },
	} {
		if r, err := do(); !errors.Is(err, ErrKeyReused) || r != (Result{}) {
			t.Errorf("%s: %+v, %v; want ErrKeyReused", name, r, err)
		}
	}
	if e.seq != before {
		t.Errorf("%d records were written", e.seq-before)
	}
	shadow{phext.Origin: "text"}.check(t, e, "a")
}

// TestFailedWriteKeepsNoKey: what was refused may be tried again.
func TestFailedWriteKeepsNoKey(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	quota := new(QuotaError)
	var bad *phext.TextError
	for _, tt := range []struct {
		name   string
		refuse func(Once) (Result, error)
		is     func(error) bool
		allow  func(Once) (Result, error)
	}{
		{"append beyond the quota",
			func(o Once) (Result, error) { return o.Append(ctx, "a", phext.Origin, []byte("text"), 3) },
			func(err error) bool { return errors.As(err, &quota) },
			func(o Once) (Result, error) { return o.Append(ctx, "a", phext.Origin, []byte("text"), 0) }},
		{"replace beyond the quota",
			func(o Once) (Result, error) { return o.Replace(ctx, "b", strings.NewReader("text"), 4) },
			func(err error) bool { return errors.As(err, &quota) },
			func(o Once) (Result, error) { return o.Replace(ctx, "b", strings.NewReader("text"), 0) }},
		{"replace by no text",
			func(o Once) (Result, error) { return o.Replace(ctx, "c", strings.NewReader("\xff"), 0) },
			func(err error) bool { return errors.As(err, &bad) },
			func(o Once) (Result, error) { return o.Replace(ctx, "c", strings.NewReader("text"), 0) }},
		{"remove of what is not there",
			func(o Once) (Result, error) { return o.Remove(ctx, "d") },
			func(err error) bool { return errors.Is(err, ErrNotFound) },
			func(o Once) (Result, error) { MustPut(t, e, "d", origin, "x"); return o.Remove(ctx, "d") }},
		{"given up",
			func(o Once) (Result, error) { return o.Append(cancelled, "e", phext.Origin, []byte("text"), 0) },
			func(err error) bool { return errors.Is(err, context.Canceled) },
			func(o Once) (Result, error) { return o.Append(ctx, "e", phext.Origin, []byte("text"), 0) }},
	} {
		key := e.Once(KeyOf(tt.name))
		for range 2 {
			if r, err := tt.refuse(key); !tt.is(err) {
				t.Errorf("%s: %+v, %v", tt.name, r, err)
			}
		}
		if r, err := tt.allow(key); err != nil || r.Replayed {
			t.Errorf("%s, then allowed: %+v, %v", tt.name, r, err)
		}
		if r, err := tt.allow(key); err != nil || !r.Replayed {
			t.Errorf("%s, then allowed twice: %+v, %v", tt.name, r, err)
		}
	}
	if n := len(e.keys.flights); n != 0 {
		t.Errorf("%d keys are taken by nobody", n)
	}
}

// clock is turned by hand.
type clock struct{ now atomic.Int64 }

func (c *clock) options(dir string) Options {
	c.now.CompareAndSwap(0, time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Unix())
	opts := options(dir)
	opts.now = func() time.Time { return time.Unix(c.now.Load(), 0) }
	return opts
}

func (c *clock) advance(d time.Duration) { c.now.Add(int64(d / time.Second)) }

func mustAppendOnce(t *testing.T, e *Engine, key string, replayed bool) {
	t.Helper()
	r, err := e.Once(KeyOf(key)).Append(ctx, "a", phext.Origin, []byte(key+" "), 0)
	if err != nil || r.Replayed != replayed {
		t.Fatalf("append with key %q: %+v, %v; want it replayed: %t", key, r, err, replayed)
	}
}

// TestKeysAreKeptForADay and no longer: while the engine runs, by the log that it
// reads again, and by the file of keys.
func TestKeysAreKeptForADay(t *testing.T) {
	for name, again := range map[string]func(*testing.T, *Engine, Options) *Engine{
		"running": func(_ *testing.T, e *Engine, _ Options) *Engine { return e },
		"log": func(t *testing.T, e *Engine, opts Options) *Engine {
			e.abort()
			return MustOpenWith(t, opts)
		},
		"file": func(t *testing.T, e *Engine, opts Options) *Engine {
			MustClose(t, e)
			return MustOpenWith(t, opts)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			opts := c.options(t.TempDir())
			e := MustOpenWith(t, opts)
			mustAppendOnce(t, e, "k", false)
			c.advance(keyLife - time.Second)
			e = again(t, e, opts)
			mustAppendOnce(t, e, "k", true)
			c.advance(time.Second)
			e = again(t, e, opts)
			mustAppendOnce(t, e, "k", false) // a day later it is another request
			c.advance(keyLife - time.Second)
			e = again(t, e, opts)
			mustAppendOnce(t, e, "k", true)
			shadow{phext.Origin: "k k "}.check(t, e, "a")
		})
	}
}

// TestNoKeyIsForgottenForWantOfRoom: where as many are kept as may be, a write with
// a new key is refused until the oldest has had its time.
func TestNoKeyIsForgottenForWantOfRoom(t *testing.T) {
	var c clock
	opts := c.options(t.TempDir())
	opts.keys = 3
	e := MustOpenWith(t, opts)
	for i := range 3 {
		mustAppendOnce(t, e, fmt.Sprint(i), false)
		c.advance(time.Hour)
	}
	refused := func(left time.Duration) {
		t.Helper()
		for name, do := range map[string]func(Once) (Result, error){
			"append": func(o Once) (Result, error) { return o.Append(ctx, "a", phext.Origin, []byte("x"), 0) },
			"remove": func(o Once) (Result, error) { return o.Remove(ctx, "a") },
		} {
			_, err := do(e.Once(KeyOf("new " + name)))
			full := new(KeysFullError)
			if !errors.As(err, &full) || full.RetryAfter != left || full.Kept != 3 {
				t.Fatalf("%s with a fourth key: %v, want a KeysFullError of 3 and %v", name, err, left)
			}
		}
		MustAppend(t, e, "unkeyed", origin, "x")
		for i := range 3 {
			mustAppendOnce(t, e, fmt.Sprint(i), true)
		}
	}
	refused(21 * time.Hour)
	e.abort()
	e = MustOpenWith(t, opts)
	refused(21 * time.Hour)
	MustClose(t, e)
	e = MustOpenWith(t, opts)
	refused(21 * time.Hour)
	c.advance(21*time.Hour - time.Second)
	refused(time.Second)
	c.advance(time.Second)
	mustAppendOnce(t, e, "3", false)
	if _, err := e.Once(KeyOf("4")).Remove(ctx, "a"); !errors.As(err, new(*KeysFullError)) {
		t.Errorf("a key too many: %v", err)
	}
	if e.keys.held != 3*keyCost || e.memory.held < 3*keyCost {
		t.Errorf("the keys are accounted with %d of %d bytes, want %d", e.keys.held, e.memory.held, 3*keyCost)
	}
	c.advance(keyLife)
	mustAppendOnce(t, e, "4", false)
	if e.keys.held != keyCost {
		t.Errorf("one key is accounted with %d bytes, want %d", e.keys.held, keyCost)
	}
}

// TestTwinsAreMadeOnce sends the same write many times at once.
func TestTwinsAreMadeOnce(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	const keys, twins = 20, 16
	var made [keys]atomic.Int32
	var group sync.WaitGroup
	for i := range keys {
		for range twins {
			group.Go(func() {
				r, err := e.Once(KeyOf(fmt.Sprint(i))).Append(ctx, "a", place(1+i), fmt.Appendf(nil, "text %d", i), 0)
				if err != nil {
					t.Error(err)
				} else if want := phext.Checksum(fmt.Appendf(nil, "text %d", i)); r.Checksum != want || r.Bytes != int64(len("text "+fmt.Sprint(i))) {
					t.Errorf("key %d: %+v, want checksum %s", i, r, want)
				}
				if !r.Replayed {
					made[i].Add(1)
				}
			})
		}
	}
	group.Wait()
	want := shadow{}
	for i := range keys {
		if n := made[i].Load(); n != 1 {
			t.Errorf("the write with key %d says %d times that it was made", i, n)
		}
		want[place(1+i)] = fmt.Sprint("text ", i)
	}
	want.check(t, e, "a")
	e.abort()
	want.check(t, MustOpen(t, dir), "a")
}

// TestTwinWaitsForTheOutcome: a write whose key is taken waits for what becomes of
// the other, and is made if that fails.
func TestTwinWaitsForTheOutcome(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprint(fails), func(t *testing.T) {
			e := MustOpen(t, t.TempDir())
			key := e.Once(KeyOf("k"))
			body, client := io.Pipe()
			first := make(chan error, 1)
			go func() {
				_, err := key.Replace(ctx, "a", body, 0)
				first <- err
			}()
			client.Write([]byte("te")) // so the key is taken
			gone, leave := context.WithCancel(ctx)
			left := make(chan error, 1)
			go func() {
				_, err := key.Replace(gone, "a", strings.NewReader("text"), 0)
				left <- err
			}()
			leave() // who gives up does not wait
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Fatalf("a twin that gives up: %v", err)
			}
			second := make(chan Result, 1)
			go func() {
				r, err := key.Replace(ctx, "a", strings.NewReader("text"), 0)
				if err != nil {
					t.Error(err)
				}
				second <- r
			}()
			shadow{}.check(t, e, "a") // nothing is made meanwhile
			if fails {
				client.CloseWithError(errors.New("the client left"))
			} else {
				client.Write([]byte("xt"))
				client.Close()
			}
			if err := <-first; (err != nil) != fails {
				t.Fatalf("the first: %v", err)
			}
			if r := <-second; r.Replayed == fails || r.Bytes != 4 {
				t.Errorf("the second: %+v, want it replayed: %t", r, !fails)
			}
			shadow{phext.Origin: "text"}.check(t, e, "a")
		})
	}
}

// TestKeysOutliveTheirSegments: a segment goes, its keys stay.
func TestKeysOutliveTheirSegments(t *testing.T) {
	dir := t.TempDir()
	opts := options(dir)
	opts.segment = 100 << 10
	e := MustOpenWith(t, opts)
	text := ""
	for i := range 40 {
		key := fmt.Sprint("k", i)
		mustAppendOnce(t, e, key, false)
		text += key + " "
		for at := range 4 {
			if _, err := e.Put(ctx, "filler", place(1+at), bytes.Repeat([]byte("f"), 20<<10), 0); err != nil {
				t.Fatal(err)
			}
		}
		MustCheckpoint(t, e, "a")
		MustCheckpoint(t, e, "filler")
		if i%8 == 7 {
			e.abort()
			e = MustOpenWith(t, opts)
		}
	}
	first := segments(t, dir)[0]
	awaitOneSegment(t, dir)
	if segments(t, dir)[0] == first && strings.HasSuffix(first, "0000000000000001") {
		t.Fatal("no segment has gone")
	}
	e.abort()
	for name, image := range map[string]string{"as it is": dir, "with short segments": CopyDir(t, dir)} {
		o := options(image)
		if name != "as it is" {
			o.segment = opts.segment
		}
		e := MustOpenWith(t, o)
		for i := range 40 {
			mustAppendOnce(t, e, fmt.Sprint("k", i), true)
		}
		shadow{phext.Origin: text}.check(t, e, "a")
		e.abort()
	}
}

// TestKeyedReplaceCrashPoints: a replacement or removal with a key that a crash
// ends before the rename was not made, and one that it ends after it was; what
// happens to the document since changes nothing about that.
func TestKeyedReplaceCrashPoints(t *testing.T) {
	for name, saved := range map[string]bool{"with changes in the log": false, "without": true} {
		for _, removes := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", removes ", removes), func(t *testing.T) {
				dir := t.TempDir()
				e := MustOpen(t, dir)
				MustAppend(t, e, "a", origin, "old")
				if saved {
					MustCheckpoint(t, e, "a")
				}
				do := func(e *Engine) (Result, error) {
					if removes {
						return e.Once(KeyOf("k")).Remove(ctx, "a")
					}
					return e.Once(KeyOf("k")).Replace(ctx, "a", strings.NewReader("new"), 0)
				}
				images := map[string]string{"before": CopyDir(t, dir)}
				// A sync of the data directory follows the rename: so take the images
				// around the one that installs.
				d := e.docs["a"]
				b, file := absent(0), ""
				if !removes {
					temp, err := e.receive(ctx, d, strings.NewReader("new"), 0)
					if err == nil {
						b, err = temp.base(0)
					}
					if err == nil {
						err = b.parse(defaultLayout)
					}
					if err != nil {
						t.Fatal(err)
					}
					file = temp.name()
				}
				kind, size := wholeReplace, int64(3)
				if removes {
					kind = wholeRemove
				}
				key := &keyed{KeyOf("k"), receipt{request: fingerprint(kind, "a", phext.Coordinate{}, b.record.hash), time: time.Now().Unix(), bytes: size}}
				seq, err := e.swap(d, b, 0, key, func() error {
					images["announced"] = CopyDir(t, dir)
					var err error
					if removes {
						err = os.Remove(filepath.Join(dir, "a.phext"))
						if !saved && errors.Is(err, os.ErrNotExist) {
							err = nil
						}
					} else {
						err = os.Rename(filepath.Join(dir, controlFolder, file), filepath.Join(dir, "a.phext"))
					}
					images["renamed"] = CopyDir(t, dir)
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				images["confirmed"] = CopyDir(t, dir)
				for point, image := range images {
					made := point == "renamed" || point == "confirmed"
					if removes && !saved && point == "announced" {
						made = true // there was no file: none is what it was to become
					}
					// Others change the document before the request is repeated.
					for round := range 3 {
						e := MustOpen(t, image)
						if round == 1 {
							MustPut(t, e, "a", "1.1.1/1.1.1/1.1.2", "since")
						}
						if round == 2 {
							MustCheckpoint(t, e, "a")
						}
						e.abort()
					}
					e := MustOpen(t, image)
					r, err := do(e)
					if err != nil || r.Replayed != made {
						t.Fatalf("%s: %+v, %v; want it replayed: %t", point, r, err, made)
					}
					if made && (r.Seq != seq || r.Bytes != size) {
						t.Errorf("%s: %+v, want sequence %d and %d bytes", point, r, seq, size)
					}
					want := shadow{}
					if !removes {
						want[phext.Origin] = "new"
					}
					if made {
						want[place(2)] = "since"
					}
					want.check(t, e, "a")
					if made {
						continue
					}
					if r, err := do(e); err != nil || !r.Replayed {
						t.Errorf("%s, twice: %+v, %v", point, r, err)
					}
				}
			})
		}
	}
}

// TestFailedReplaceKeepsNoKey: the intent in the log, with the key, is not enough.
func TestFailedReplaceKeepsNoKey(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	MustAppend(t, e, "a", origin, "old")
	crash := errors.New("no rename")
	key := &keyed{KeyOf("k"), receipt{request: fingerprint(wholeRemove, "a", phext.Coordinate{}, [16]byte{}), time: time.Now().Unix()}}
	if _, err := e.swap(e.docs["a"], absent(0), 0, key, func() error { return crash }); !errors.Is(err, crash) {
		t.Fatal(err)
	}
	MustAppend(t, e, "a", origin, " more")
	if e.promised != 0 {
		t.Errorf("%d bytes of the log are promised to nobody", e.promised)
	}
	e.abort()
	e = MustOpen(t, dir)
	shadow{phext.Origin: "old more"}.check(t, e, "a")
	if r, err := e.Once(KeyOf("k")).Remove(ctx, "a"); err != nil || r.Replayed {
		t.Errorf("the removal again: %+v, %v", r, err)
	}
}

// TestDamagedKeysAreRefused changes every byte of the file of keys, and cuts it at
// every length: a key that is lost without a word would have its write made twice.
func TestDamagedKeysAreRefused(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	mustAppendOnce(t, e, "one", false)
	mustAppendOnce(t, e, "two", false)
	MustClose(t, e)
	path := filepath.Join(dir, controlFolder, keysFile)
	whole := MustReadFile(t, path)
	if len(whole) != keysHeader+2*keySize+4 {
		t.Fatalf("the file has %d bytes", len(whole))
	}
	try := func(what string, at int, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(options(dir))
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.File != keysFile {
			t.Fatalf("%s at byte %d: %v, want a CorruptError", what, at, err)
		}
		if r, err := Check(dir); err != nil || !r.Damaged() {
			t.Fatalf("%s at byte %d: Check sees nothing: %v, %v", what, at, r, err)
		}
	}
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1 << (i % 8)
		try("flip", i, damaged)
		try("cut", i, whole[:i])
	}
	out := filepath.Join(t.TempDir(), "out")
	if s, err := Repair(dir, out); err != nil || len(s.Left) == 0 {
		t.Fatalf("repair of damaged keys: %v, %v", s, err)
	}
	shadow{phext.Origin: "one two "}.check(t, MustOpen(t, out), "a")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	e = MustOpen(t, dir)
	mustAppendOnce(t, e, "one", true)
	mustAppendOnce(t, e, "two", true)
}

// TestRepairKeepsKeys: those of the file, and those of the log.
func TestRepairKeepsKeys(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	mustAppendOnce(t, e, "file", false)
	MustClose(t, e)
	e = MustOpen(t, dir)
	mustAppendOnce(t, e, "log", false)
	e.abort()
	out := filepath.Join(t.TempDir(), "out")
	if _, err := Repair(dir, out); err != nil {
		t.Fatal(err)
	}
	e = MustOpen(t, out)
	mustAppendOnce(t, e, "file", true)
	mustAppendOnce(t, e, "log", true)
	shadow{phext.Origin: "file log "}.check(t, e, "a")
}
