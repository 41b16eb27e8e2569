package wire

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, 50 * time.Microsecond, 51 * time.Microsecond, time.Second, 10 * time.Second, time.Hour} {
		h.Observe(d)
	}
	total, upTo := h.Cumulative()
	for bound, want := range map[float64]uint64{50e-6: 2, 100e-6: 3, .5: 3, 1: 4, 5: 4, 10: 5} {
		if upTo[bound] != want {
			t.Errorf("%d are no longer than %v s, want %d", upTo[bound], bound, want)
		}
	}
	if total != 6 || h.Sum < 3611 || h.Sum > 3611.001 {
		t.Errorf("%d durations of %v s", total, h.Sum)
	}

	before := h
	h.Observe(time.Second)
	sum := before
	sum.Gain(h, before)
	if sum != h {
		t.Errorf("%+v and what came since are %+v, want %+v", before, sum, h)
	}
}
