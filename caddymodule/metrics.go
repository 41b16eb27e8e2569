package caddymodule

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sqedge/sqedge/shared/wire"
)

// metrics are the edge's own. They live with the runtime, so that counters go
// on across config reloads, and are registered anew with each config's registry.
type metrics struct {
	rt *runtime

	duration       *prometheus.HistogramVec
	authFailures   prometheus.Counter
	limited        *prometheus.CounterVec
	misdirected    prometheus.Counter
	reloadFailures prometheus.Counter
	lastReload     prometheus.Gauge
	eventsDropped  prometheus.Counter
	repeated       prometheus.Counter
	repeatedWrites prometheus.Counter
	workers        *workerScraper
}

var (
	callsDesc   = prometheus.NewDesc("sq_api_calls_total", "Authenticated requests by tenant, operation and status code.", []string{"tenant", "method", "code"}, nil)
	storageDesc = prometheus.NewDesc("sq_storage_bytes", "Text of all documents of a tenant, breaks included: what its quota counts; _others are all tenants that were not active.", []string{"tenant"}, nil)
	quotaDesc   = prometheus.NewDesc("sq_quota_bytes", "Quota of a tenant in bytes, 0 for none; _others are all tenants that were not active.", []string{"tenant"}, nil)
	waitingDesc = prometheus.NewDesc("sq_waiting_cost", "What the requests of all tenants cost whose answer has not begun, a read 16 and a write 1: tenants get no more than their share while it is over max_in_flight.", nil, nil)
	activeDesc  = prometheus.NewDesc("sq_tenants_active", "Tenants in tenants.json that are enabled.", nil, nil)
)

// othersLabel stands for all tenants that have no series of their own, where a series
// has their sum: no tenant's id can be the same.
const othersLabel = "_others"

// activeBefore is how long before the edge began a tenant may have been active and
// still have series of its own.
const activeBefore = 24 * time.Hour

func newMetrics(rt *runtime) *metrics {
	return &metrics{
		rt: rt,
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "sq_request_duration_seconds",
			Help:    "Time from authentication to the last byte of the answer, by operation.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method"}),
		authFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sq_auth_failures_total",
			Help: "Requests refused for want of a valid key.",
		}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sq_limited_total",
			Help: "Requests that a limit refused, by limit; sq_api_calls_total has those of each tenant.",
		}, []string{"limit"}),
		misdirected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sq_misdirected_total",
			Help: "Requests that reached another tenant's worker and were refused there; anything but 0 is a fault.",
		}),
		reloadFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sq_config_reload_failures_total",
			Help: "Times that tenants.json was found bad and the last good one stayed in force.",
		}),
		lastReload: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sq_config_last_reload_success_timestamp_seconds",
			Help: "When tenants.json was last taken into force.",
		}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sq_reads_repeated_total",
			Help: "Reads that were sent once more, since their worker died before it answered.",
		}),
		repeatedWrites: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sq_writes_repeated_total",
			Help: "Times that a write with an idempotency key was sent again, since its worker died before it answered.",
		}),
		eventsDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sq_worker_events_dropped_total",
			Help: "Worker state events that were not emitted, since their handlers were too slow.",
		}),
		workers: newWorkerScraper(),
	}
}

// register registers everything with the registry of one config.
func (m *metrics) register(reg *prometheus.Registry) error {
	for _, c := range []prometheus.Collector{m.duration, m.authFailures, m.limited, m.misdirected, m.reloadFailures, m.lastReload, m.eventsDropped, m.repeated, m.repeatedWrites, m} {
		var already prometheus.AlreadyRegisteredError
		if err := reg.Register(c); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

// reloaded notes how taking tenants.json into force went.
func (m *metrics) reloaded(err error) {
	if err != nil {
		m.reloadFailures.Inc()
		return
	}
	m.lastReload.SetToCurrentTime()
}

// observe counts one authenticated request.
func (m *metrics) observe(u *usage, op wire.Op, status int, took time.Duration) {
	op = u.calls.count(op, status)
	m.duration.WithLabelValues(string(op)).Observe(took.Seconds())
}

// Describe implements prometheus.Collector. It describes nothing, which lets
// Collect send what it finds: the supervisor comes and goes with the runtime, and
// Caddy's registry refuses what was not described where anything was.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	s := m.rt.serving.Load()
	if s == nil {
		return
	}
	s.super.Collect(ch)
	for tenant, u := range m.rt.usage.tenants.Range {
		u.(*usage).calls.collect(tenant.(string), ch)
	}
	registry := s.file.Registry()
	// A tenant that nobody asked for lately is none of its own in the metrics, whose
	// size is thereby that of the traffic and not of tenants.json.
	since := m.rt.began.Add(-activeBefore)
	active := func(tenant string) bool { return m.rt.usage.active(tenant, since) }
	storage := m.workers.scrape(s, registry, active, ch)
	enabled := 0
	var othersQuota, othersStored int64
	whole := true
	for _, t := range registry.Tenants() {
		if t.Enabled {
			enabled++
		}
		bytes, known := storage[t.ID]
		if !active(t.ID) {
			othersQuota += t.QuotaBytes()
			othersStored += bytes
			whole = whole && known
			continue
		}
		ch <- prometheus.MustNewConstMetric(quotaDesc, prometheus.GaugeValue, float64(t.QuotaBytes()), t.ID)
		if known {
			ch <- prometheus.MustNewConstMetric(storageDesc, prometheus.GaugeValue, float64(bytes), t.ID)
		}
	}
	ch <- prometheus.MustNewConstMetric(quotaDesc, prometheus.GaugeValue, float64(othersQuota), othersLabel)
	if whole {
		ch <- prometheus.MustNewConstMetric(storageDesc, prometheus.GaugeValue, float64(othersStored), othersLabel)
	}
	ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(m.rt.shedder.wanted.Load()))
	ch <- prometheus.MustNewConstMetric(activeDesc, prometheus.GaugeValue, float64(enabled))
}
