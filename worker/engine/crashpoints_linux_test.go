package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

const (
	sector = 512      // bytes that a disk writes whole or not at all
	chunk  = 64 << 10 // bytes of an image that are copied, or left out while they are zero
)

// TestCrashPoints records what a disk is told while processes write on it, and
// takes the disk as a power cut would leave it at random instants: of the sectors
// that no flush covers, any may be missing. Then as in [TestKill]. Each round but
// the first goes on with such a disk, so that recovery is cut short, too.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	needDisks(t)
	if err := crashPoints(t, runs(4, 40), false); err != nil {
		t.Fatal(err)
	}
}

// TestCrashPointsCatchEarlyAcknowledgement is the control of [TestCrashPoints].
func TestCrashPointsCatchEarlyAcknowledgement(t *testing.T) {
	t.Parallel()
	needDisks(t)
	err := crashPoints(t, 10, true)
	if err == nil {
		t.Fatal("no crash point showed that writes were acknowledged before they were on disk")
	}
	t.Log("caught:", err)
}

// crashPoints looks at 30 instants of each round, and returns an error as soon as
// an acknowledged write is missing.
func crashPoints(t *testing.T, rounds int, early bool) error {
	const each = 30
	disk, diskPath := MustMakeDisk(t)
	crashed, crashedPath := MustMakeImage(t)
	var before acknowledged // the round
	events, lines, torn := 0, 0, 0
	for round := range rounds {
		journal, from := recordWriters(t, diskPath, early)
		r := newReplay(journal, MustReadFile(t, diskPath), before)
		// Just before the disk is told something: then all is acknowledged that
		// can be in its present state.
		var told []int
		for i, e := range journal {
			if i >= from && e.line == "" {
				told = append(told, i)
			}
		}
		if len(told) == 0 {
			t.Fatal("the disk was told nothing")
		}
		events += len(told)
		lines += len(journal) - from - len(told)
		var instants [each]int
		for i := range instants {
			instants[i] = told[rand.IntN(len(told))]
		}
		slices.Sort(instants[:])
		for _, at := range instants {
			r.MustAdvance(t, at)
			lost := r.MustWrite(t, crashed, rand.Float64())
			if lost > 0 {
				torn++
			}
			m := MustMount(t, crashedPath)
			found := r.told
			err := found.check(m.path("data"), false)
			m.MustClose(t)
			if err != nil {
				return fmt.Errorf("round %d, crash before event %d of %d, with %d sectors lost: %w", round, at, len(journal), lost, err)
			}
		}
		r.MustWrite(t, disk, 0.5)
		before = r.told
	}
	t.Logf("%d crash points, %d with sectors lost, among %d writes and flushes and %d acknowledged writes", rounds*each, torn, events, lines)
	return nil
}

// recordWriters has two processes write on a recorder that begins as the image,
// each until it is killed. It returns the journal up to then, and where in it the
// first process began.
func recordWriters(t *testing.T, image string, early bool) (journal []event, begin int) {
	t.Helper()
	d := &recorder{image: MustReadFile(t, image)}
	server := d.MustServe(t)
	m := MustMount(t, server.path("disk"))
	begin = d.length()
	end := begin
	for range 2 {
		after := rand.IntN(600)
		_, stderr := runWriters(t, m.path("data"), early, func(child *os.Process, line string) {
			d.note(event{line: line})
			if after == 0 {
				child.Kill()
				end = d.length()
			}
			after--
		})
		if stderr != "" {
			t.Fatalf("the child failed: %s", stderr)
		}
	}
	m.MustClose(t)
	server.MustClose(t)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.journal[:end], begin
}

// replay goes through a journal.
type replay struct {
	journal []event
	at      int    // events that have happened
	durable int    // events whose writes no crash undoes
	image   []byte // with those writes
	applied int    // events that image holds
	used    [diskSize / chunk]bool
	told    acknowledged
}

func newReplay(journal []event, image []byte, told acknowledged) *replay {
	r := &replay{journal: journal, image: image, told: told}
	for i := range r.used {
		r.used[i] = !zero(image[i*chunk : (i+1)*chunk])
	}
	return r
}

// MustAdvance goes on to an instant, which is not before the present one.
func (r *replay) MustAdvance(t *testing.T, to int) {
	t.Helper()
	for ; r.at < to; r.at++ {
		e := r.journal[r.at]
		r.durable = max(r.durable, e.flushed)
		if e.line != "" {
			if err := r.told.note(e.line); err != nil {
				t.Fatal(err)
			}
		}
	}
	for ; r.applied < r.durable; r.applied++ {
		e := r.journal[r.applied]
		n := copy(r.image[e.off:], e.data)
		for i := e.off / chunk; i*chunk < e.off+int64(n); i++ {
			r.used[i] = true
		}
	}
}

// MustWrite makes f an image of the disk as a crash at this instant may leave it:
// of the writes that are not durable, sectors reach it with the probability luck.
// It returns how many do not.
func (r *replay) MustWrite(t *testing.T, f *os.File, luck float64) (lost int) {
	t.Helper()
	if err := errors.Join(f.Truncate(0), f.Truncate(int64(len(r.image)))); err != nil {
		t.Fatal(err)
	}
	write := func(data []byte, off int64) {
		if _, err := f.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	for i, used := range r.used {
		if used {
			write(r.image[i*chunk:(i+1)*chunk], int64(i)*chunk)
		}
	}
	for _, e := range r.journal[r.applied:r.at] {
		for off := 0; off < len(e.data); off += sector {
			if rand.Float64() < luck {
				write(e.data[off:off+sector], e.off+int64(off))
			} else {
				lost++
			}
		}
	}
	return lost
}
