package wire

import (
	"slices"
	"time"
)

// Seconds are the upper bounds of a [Histogram]'s buckets.
var Seconds = [...]float64{
	50e-6, 100e-6, 250e-6, 500e-6,
	1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3,
	.1, .25, .5, 1, 2.5, 5, 10,
}

// Histogram counts durations by how long they were. It is our own, for a metrics
// library would take a fifth of a worker's memory and of the time of its start.
type Histogram struct {
	Sum    float64                  `json:"sum"`    // in seconds
	Counts [len(Seconds) + 1]uint64 `json:"counts"` // of those no longer than each of [Seconds] and longer than the one before; the last of what is longer
}

// Observe counts one duration.
func (h *Histogram) Observe(d time.Duration) {
	i, _ := slices.BinarySearch(Seconds[:], d.Seconds())
	h.Counts[i]++
	h.Sum += d.Seconds()
}

// Gain adds what now has more than before, an earlier state of the same.
func (h *Histogram) Gain(now, before Histogram) {
	for i := range h.Counts {
		h.Counts[i] += now.Counts[i] - before.Counts[i]
	}
	h.Sum += now.Sum - before.Sum
}

// Cumulative returns how many there were, and how many no longer than each of
// [Seconds].
func (h *Histogram) Cumulative() (total uint64, upTo map[float64]uint64) {
	upTo = make(map[float64]uint64, len(Seconds))
	for i, bound := range Seconds {
		total += h.Counts[i]
		upTo[bound] = total
	}
	return total + h.Counts[len(Seconds)], upTo
}
