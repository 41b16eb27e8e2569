package supervisor

import "github.com/prometheus/client_golang/prometheus"

// How a worker ended, as the label reason of sq_worker_exits_total.
const (
	exitDrained = "drained" // by itself with status 0, having checkpointed
	exitCrashed = "crashed" // anything else that was not our kill
	exitKilled  = "killed"  // by us, for it missed a timeout
)

// metrics have no tenant label: their number must not grow with the tenants.
type metrics struct {
	starts       prometheus.Counter
	startSeconds prometheus.Histogram
	running      prometheus.Gauge
	exits        *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		starts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sq_worker_starts_total",
			Help: "Worker processes started, those that never became ready included.",
		}),
		startSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sq_worker_start_seconds",
			Help:    "Time from the decision to start a worker until it was ready to serve.",
			Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sq_workers_running",
			Help: "Worker processes that exist now.",
		}),
		exits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sq_worker_exits_total",
			Help: "Worker processes that ended: drained by themselves, crashed, or killed for missing a timeout.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{exitDrained, exitCrashed, exitKilled} {
		m.exits.WithLabelValues(reason)
	}
	return m
}

// Describe implements [prometheus.Collector].
func (s *Supervisor) Describe(ch chan<- *prometheus.Desc) {
	s.metrics.starts.Describe(ch)
	s.metrics.startSeconds.Describe(ch)
	s.metrics.running.Describe(ch)
	s.metrics.exits.Describe(ch)
}

// Collect implements [prometheus.Collector].
func (s *Supervisor) Collect(ch chan<- prometheus.Metric) {
	s.metrics.starts.Collect(ch)
	s.metrics.startSeconds.Collect(ch)
	s.metrics.running.Collect(ch)
	s.metrics.exits.Collect(ch)
}

var _ prometheus.Collector = (*Supervisor)(nil)
