package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// seconds are the buckets of durations on disk, 50 µs to 10 s.
var seconds = []float64{
	50e-6, 100e-6, 250e-6, 500e-6,
	1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3,
	.1, .25, .5, 1, 2.5, 5, 10,
}

// metrics have no tenant label: the edge adds it when it collects them.
type metrics struct {
	registry    *prometheus.Registry
	syncs       prometheus.Histogram
	checkpoints prometheus.Histogram
	misdirected prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		syncs: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sq_log_sync_seconds",
			Help:    "Time of one sync of the write-ahead log, which may serve many writers.",
			Buckets: seconds,
		}),
		checkpoints: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sq_checkpoint_seconds",
			Help:    "Time to write one document's checkpoint.",
			Buckets: seconds,
		}),
		misdirected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sq_misdirected_total",
			Help: "Requests that named another tenant and were refused. Anything but 0 is a routing fault.",
		}),
	}
	m.registry.MustRegister(m.syncs, m.checkpoints, m.misdirected)
	return m
}

func (m *metrics) observeSync(d time.Duration)       { m.syncs.Observe(d.Seconds()) }
func (m *metrics) observeCheckpoint(d time.Duration) { m.checkpoints.Observe(d.Seconds()) }
