package engine

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// TestKill kills a writing process at random instants, over and over on the
// same directory. Every acknowledged write must be there exactly once, every
// file must be a valid phext, and no open may be refused.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := runs(40, 1000)
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var told acknowledged
	start := time.Now()
	total := 0
	for kill := range kills {
		after, lines := r.IntN(600), 0
		_, stderr := runWriters(t, dir, false, func(child *os.Process, line string) {
			if err := told.note(line); err != nil {
				t.Fatal(err)
			}
			if lines == after {
				child.Kill()
			}
			lines++
		})
		if stderr != "" {
			t.Fatalf("kill %d: the child failed: %s", kill, stderr)
		}
		total += lines
		if err := told.check(dir, r.IntN(4) == 0); err != nil {
			t.Fatalf("kill %d: %v", kill, err)
		}
	}
	t.Logf("%d kills, %d acknowledged writes, in %v", kills, total, time.Since(start))
	if total < kills {
		t.Errorf("only %d writes were acknowledged in %d runs", total, kills)
	}
}
