package supervisor

import (
	"slices"
	"testing"
	"time"
)

func TestYields(t *testing.T) {
	for _, tt := range []struct {
		name   string
		shares []share
		want   []bool
	}{
		{"nobody", nil, nil},
		{"nobody does anything", []share{{0, 100}, {0, 100}}, []bool{false, false}},
		{"alone", []share{{2, 100}}, []bool{false}},
		{"alone beside sleepers", []share{{2, 100}, {0, 100}}, []bool{false, false}},
		{"alike", []share{{.5, 100}, {.6, 100}, {.4, 100}}, []bool{false, false, false}},
		{"one burns", []share{{1.9, 100}, {.01, 100}}, []bool{true, false}},
		{"two burn", []share{{.9, 100}, {.9, 100}, {.01, 100}, {.01, 100}, {.01, 100}}, []bool{true, true, false, false, false}},
		{"the busiest, and yet not busy", []share{{.2, 100}, {.001, 100}}, []bool{false, false}},
		{"its weight allows it", []share{{.9, 1000}, {.1, 100}}, []bool{false, false}},
		{"its weight does not", []share{{.3, 10}, {.3, 100}}, []bool{true, false}},
	} {
		if got := yields(tt.shares); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestUseRisesAtOnceAndFallsSlowly: a worker that burns in short bursts must not
// be taken for one that rests.
func TestUseRisesAtOnceAndFallsSlowly(t *testing.T) {
	use := average(average(0, 2), 2)
	if use < 1 {
		t.Errorf("after two looks at two processors in use, %v", use)
	}
	for range time.Second / yieldEvery * 5 {
		use = average(use, 0)
	}
	if use < .5 {
		t.Errorf("after 5 s of rest, %v", use)
	}
	for range time.Minute / yieldEvery {
		use = average(use, 0)
	}
	if use > yieldFloor {
		t.Errorf("after a minute of rest, %v", use)
	}
}
