package engine

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Of ext4: end all I/O at once, and write back nothing that is only in memory,
// the journal included.
const (
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// TestPowerCut takes a file system away from under a writing process at random
// instants, as a power cut would: what the kernel was not made to write is lost.
// Then as in [TestKill], over and over on the same disk.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	needDisks(t)
	cuts := runs(30, 300)
	total, err := cutPower(t, cuts, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d power cuts, %d acknowledged writes", cuts, total)
	if total < cuts {
		t.Errorf("only %d writes were acknowledged in %d runs", total, cuts)
	}
}

// TestPowerCutCatchesEarlyAcknowledgement is the control of [TestPowerCut]: an
// engine that acknowledges while the sync is still under way must not pass.
func TestPowerCutCatchesEarlyAcknowledgement(t *testing.T) {
	t.Parallel()
	needDisks(t)
	_, err := cutPower(t, 100, true)
	if err == nil {
		t.Fatal("no power cut showed that writes were acknowledged before they were on disk")
	}
	t.Log("caught:", err)
}

// cutPower returns how many writes were acknowledged, and an error as soon as
// one of them is not there after a cut.
func cutPower(t *testing.T, cuts int, early bool) (total int, err error) {
	_, image := MustMakeDisk(t)
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var told acknowledged
	for cut := range cuts {
		m := MustMount(t, image)
		after, lines := r.IntN(600), 0
		state, stderr := runWriters(t, m.path("data"), early, func(child *os.Process, line string) {
			if err := told.note(line); err != nil {
				t.Fatal(err)
			}
			if lines == after {
				if err := m.shutdown(); err != nil {
					t.Fatal(err)
				}
			}
			lines++
		})
		// It must notice, and not crash: 1 is an error that it reports.
		if lines <= after || state.ExitCode() != 1 {
			t.Fatalf("cut %d: after %d writes the child ended with %v: %s", cut, lines, state, stderr)
		}
		total += lines
		m.MustClose(t)

		m = MustMount(t, image)
		if err := told.check(m.path("data"), r.IntN(4) == 0); err != nil {
			return total, err
		}
		m.MustClose(t)
	}
	return total, nil
}

// shutdown cuts the mount's power.
func (m *mount) shutdown() error {
	root, err := m.root()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	return unix.IoctlSetPointerInt(root, ext4Shutdown, noLogFlush)
}
