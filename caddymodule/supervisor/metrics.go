package supervisor

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// How a worker ended, as the label reason of sq_worker_exits_total.
const (
	exitDrained = "drained" // by itself with status 0, having checkpointed
	exitCrashed = "crashed" // anything else that was not our kill
	exitKilled  = "killed"  // by us, for it missed a timeout
	exitOOM     = "oom"     // by the kernel, for it needed more memory than its group may have
)

// metrics have no tenant label: their number must not grow with the tenants.
type metrics struct {
	starts       prometheus.Counter
	startSeconds prometheus.Histogram
	running      prometheus.Gauge
	spare        prometheus.GaugeFunc
	yielding     prometheus.Gauge
	exits        *prometheus.CounterVec
	transitions  *prometheus.CounterVec
	queue        prometheus.GaugeFunc
	refused      *prometheus.CounterVec
}

func newMetrics(queued *atomic.Int64, spares *spares) *metrics {
	m := &metrics{
		starts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sq_worker_starts_total",
			Help: "Worker processes given to a tenant, those that never became ready included.",
		}),
		startSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sq_worker_start_seconds",
			Help:    "Time from the decision to start a worker until it was ready to serve.",
			Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sq_workers_running",
			Help: "Worker processes of tenants that exist now.",
		}),
		spare: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sq_workers_spare",
			Help: "Worker processes that wait for a tenant, which sq_workers_running does not count.",
		}, func() float64 { return float64(spares.count()) }),
		yielding: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sq_workers_yielding",
			Help: "Worker processes that run only where nobody else wants to, since they use far more of the processors than the others.",
		}),
		exits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sq_worker_exits_total",
			Help: "Worker processes that ended: drained by themselves, crashed, killed for missing a timeout, or killed by the kernel for want of memory (oom).",
		}, []string{"reason"}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sq_worker_transitions_total",
			Help: "Changes of a worker's state: asleep, starting, ready, draining or broken.",
		}, []string{"from", "to"}),
		queue: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sq_worker_queue",
			Help: "Workers that wait for their turn to be started.",
		}, func() float64 { return float64(queued.Load()) }),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sq_worker_starts_refused_total",
			Help: "Starts refused because the queue was full, or their turn did not come in time.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{refusedFull, refusedTimeout} {
		m.refused.WithLabelValues(reason)
	}
	for _, move := range moves {
		m.transitions.WithLabelValues(string(move[0]), string(move[1]))
	}
	for _, reason := range []string{exitDrained, exitCrashed, exitKilled, exitOOM} {
		m.exits.WithLabelValues(reason)
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.starts, m.startSeconds, m.running, m.spare, m.yielding, m.exits, m.transitions, m.queue, m.refused}
}

// Describe implements [prometheus.Collector].
func (s *Supervisor) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.metrics.all() {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (s *Supervisor) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.metrics.all() {
		c.Collect(ch)
	}
}

var _ prometheus.Collector = (*Supervisor)(nil)
