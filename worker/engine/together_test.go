package engine

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// place returns one of a few places.
func placeOf(n int) phext.Coordinate {
	at := phext.Origin
	at[phext.Dimensions-1] = uint16(1 + n)
	return at
}

// TestBatchesOnReplay cuts the log at every byte of a record with many changes,
// and changes every byte of it: either all of them are there, or none.
func TestBatchesOnReplay(t *testing.T) {
	dir := t.TempDir()
	MustWriteFile(t, dir, "a.phext", "old")
	e := MustOpen(t, dir)
	MustPut(t, e, "a", origin, "before")
	used := e.wal.used
	results, err := e.Apply(ctx, []Mutation{
		{Append, "a", placeOf(0), []byte(" and after")},
		{Put, "b", placeOf(1), []byte("new")},
		{Put, "a", placeOf(2), []byte("two")},
		{Delete, "a", placeOf(0), nil},
		{Delete, "nowhere", placeOf(0), nil},
		{Append, "b", placeOf(1), []byte("er")},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	seq := results[0].Seq
	for i, bytes := range []int64{10, 3, 3, 16, 0, 2} {
		if r := results[i]; r.Bytes != bytes || i != 4 && r.Seq != seq {
			t.Errorf("change %d: %+v, want %d bytes and sequence %d", i, r, bytes, seq)
		}
	}
	if want := phext.Checksum([]byte("newer")); results[5].Checksum != want {
		t.Errorf("checksum %s, want %s", results[5].Checksum, want)
	}
	none := map[string]shadow{"a": {placeOf(0): "before"}, "b": {}}
	all := map[string]shadow{"a": {placeOf(2): "two"}, "b": {placeOf(1): "newer"}}
	for name, s := range all {
		s.check(t, e, name)
	}
	end := e.wal.used
	e.abort()
	log := segments(t, dir)[0]
	data := MustReadFile(t, log)
	clear(data[end:]) // the mark, which says that the batch was synced

	for at := used; at <= end; at++ {
		for _, change := range []func([]byte){
			func(b []byte) { clear(b[at:end]) }, // cut short
			func(b []byte) { b[at] ^= 0x40 },
		} {
			b := bytes.Clone(data)
			change(b)
			image := CopyDir(t, dir)
			MustWriteFile(t, filepath.Join(image, controlFolder), filepath.Base(log), string(b))
			e := MustOpen(t, image)
			want := none
			if bytes.Equal(b[used:end], data[used:end]) {
				want = all
			}
			for name, s := range want {
				s.check(t, e, name)
			}
			e.abort()
		}
	}
}

// TestBatchIsAllOrNothing: a batch that the quota stops, or that is wrong, leaves
// nothing behind, in memory or in the log.
func TestBatchIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	e := MustOpen(t, dir)
	MustPut(t, e, "a", origin, "stays")
	before := e.wal.used
	seq := e.seq
	var full *QuotaError
	_, err := e.Apply(ctx, []Mutation{
		{Delete, "a", phext.Origin, nil},
		{Append, "b", phext.Origin, []byte("12345")},
		{Append, "c", phext.Origin, []byte("1234567890")},
	}, 14)
	if !errors.As(err, &full) {
		t.Fatalf("error %v, want one of the quota", err)
	}
	if _, err := e.Apply(ctx, []Mutation{{Put, "a", phext.Origin, []byte("x")}, {0, "a", phext.Origin, nil}}, 0); err == nil {
		t.Error("a change of no kind is made")
	}
	shadow{phext.Origin: "stays"}.check(t, e, "a")
	for _, name := range []string{"b", "c"} {
		shadow{}.check(t, e, name)
	}
	if e.wal.used != before || e.seq != seq {
		t.Errorf("the log grew from %d to %d", before, e.wal.used)
	}
	checkMemory(t, e)
	if e.promised != 0 {
		t.Errorf("%d bytes of the log are still promised", e.promised)
	}
	MustClose(t, e)
	e = MustOpen(t, dir)
	shadow{phext.Origin: "stays"}.check(t, e, "a")
}

// TestBatchRace moves a token between documents while another one writes to them
// and too little memory makes checkpoints all the time. After each crash it is in
// exactly one place, the one where it was last.
func TestBatchRace(t *testing.T) {
	opts := options(t.TempDir())
	opts.Memory = 10_000
	names := []string{"a", "b", "c"}
	r := rand.New(rand.NewPCG(2, 2))
	e := MustOpenWith(t, opts)
	where := 0
	MustPut(t, e, names[where], origin, "token")
	for round := range 10 {
		var noise sync.WaitGroup
		noise.Go(func() {
			for i := range 30 {
				if _, err := e.Append(ctx, names[i%3], placeOf(1+i%5), []byte("noise "), 0); err != nil {
					t.Error(err)
				}
			}
		})
		for range 30 {
			from := where
			where = (from + 1 + r.IntN(2)) % 3
			if _, err := e.Apply(ctx, []Mutation{
				{Delete, names[from], phext.Origin, nil},
				{Append, names[where], phext.Origin, []byte("token")},
			}, 0); err != nil {
				t.Fatal(err)
			}
		}
		noise.Wait()
		e.abort()
		e = MustOpenWith(t, opts)
		for i, name := range names {
			want := map[bool]string{true: "token"}[i == where]
			if got := selectText(t, e, name, origin); got != want {
				t.Fatalf("round %d: document %s has %q, want %q", round, name, got, want)
			}
		}
	}
}
