package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

// scrapeTimeout bounds how long one worker may hold up a metrics scrape, and
// scrapeAtOnce how many are asked at the same time.
const (
	scrapeTimeout = 2 * time.Second
	scrapeAtOnce  = 16
)

// workerHistograms are the workers' histograms that the edge shows, summed over
// all workers: a series for each tenant would be too many.
var workerHistograms = map[string]*prometheus.Desc{
	"sq_log_sync_seconds":   prometheus.NewDesc("sq_log_sync_seconds", "Time of one sync of a write-ahead log, over all workers.", nil, nil),
	"sq_checkpoint_seconds": prometheus.NewDesc("sq_checkpoint_seconds", "Time of writing one document's checkpoint, over all workers.", nil, nil),
}

// workerScraper asks the running workers for their numbers. A worker counts
// from its start, so the scraper adds up what each has gained since it was last
// asked; the sums never fall.
type workerScraper struct {
	mu     sync.Mutex
	sums   map[string]*histogram // by metric name
	seen   map[string]workerSeen // by tenant
	stored map[string]int64      // storage bytes by tenant, as of the last scrape; kept for sleeping workers
}

// workerSeen is what one worker process showed when it was last asked.
type workerSeen struct {
	pid        int
	histograms map[string]*histogram
}

// histogram is a cumulative one, as Prometheus has it.
type histogram struct {
	count   uint64
	sum     float64
	buckets map[float64]uint64
}

func newWorkerScraper() *workerScraper {
	return &workerScraper{sums: make(map[string]*histogram), seen: make(map[string]workerSeen), stored: make(map[string]int64)}
}

// scrape asks every worker that runs, which keeps none awake. One that does not answer is left out.
func (ws *workerScraper) scrape(s *serving) {
	registry := s.file.Registry()
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(scrapeAtOnce)
	asleep := make(map[string]bool)
	for _, status := range s.super.Statuses() {
		tenant := registry.ByID(status.Tenant)
		if tenant == nil || status.State != supervisor.Ready {
			asleep[status.Tenant] = true
			continue
		}
		group.Go(func() error {
			stats, err := askStats(ctx, s.super.Peek, tenant)
			if err != nil {
				return nil
			}
			families, err := askMetrics(ctx, s.super.Peek, tenant)
			if err != nil {
				return nil
			}
			ws.add(tenant.ID, status.PID, stats, families)
			return nil
		})
	}
	group.Wait()
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for tenant := range asleep {
		delete(ws.stored, tenant)
	}
}

func (ws *workerScraper) add(tenant string, pid int, stats wire.Stats, families map[string]*dto.MetricFamily) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.stored[tenant] = stats.StorageBytes
	before := ws.seen[tenant]
	if before.pid != pid {
		before = workerSeen{pid: pid}
	}
	now := workerSeen{pid: pid, histograms: make(map[string]*histogram)}
	for name := range workerHistograms {
		family := families[name]
		if family == nil || len(family.Metric) != 1 {
			continue
		}
		h := readHistogram(family.Metric[0].GetHistogram())
		now.histograms[name] = h
		if ws.sums[name] == nil {
			ws.sums[name] = &histogram{buckets: make(map[float64]uint64)}
		}
		ws.sums[name].gain(h, before.histograms[name])
	}
	ws.seen[tenant] = now
}

func readHistogram(h *dto.Histogram) *histogram {
	out := &histogram{count: h.GetSampleCount(), sum: h.GetSampleSum(), buckets: make(map[float64]uint64)}
	for _, b := range h.GetBucket() {
		out.buckets[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	return out
}

// gain adds what now has more than before, which may be nil.
func (h *histogram) gain(now, before *histogram) {
	if before == nil {
		before = &histogram{}
	}
	h.count += now.count - before.count
	h.sum += now.sum - before.sum
	for bound, n := range now.buckets {
		h.buckets[bound] += n - before.buckets[bound]
	}
}

func (ws *workerScraper) collect(ch chan<- prometheus.Metric) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for name, desc := range workerHistograms {
		h := ws.sums[name]
		if h == nil {
			h = &histogram{}
		}
		buckets := make(map[float64]uint64, len(h.buckets))
		for bound, n := range h.buckets {
			buckets[bound] = n
		}
		ch <- prometheus.MustNewConstHistogram(desc, h.count, h.sum, buckets)
	}
}

// storage returns a tenant's storage: the worker's own number where it runs,
// what lies on disk where it sleeps.
func (ws *workerScraper) storage(t *tenants.Tenant) int64 {
	ws.mu.Lock()
	n, ok := ws.stored[t.ID]
	ws.mu.Unlock()
	if ok {
		return n
	}
	return storageOnDisk(t.DataDir)
}

func (ws *workerScraper) forget(tenant string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.seen, tenant)
	delete(ws.stored, tenant)
}

// roundTrip sends a request to a tenant's worker, as the supervisor's RoundTrip
// does, which wakes one that sleeps, or Peek, which answers nil for it.
type roundTrip func(supervisor.Spec, *http.Request) (*http.Response, error)

// errAsleep is why a worker that was only to be peeked at said nothing.
var errAsleep = errors.New("it is not ready")

// ask sends a worker a GET that is no operation.
func ask(ctx context.Context, trip roundTrip, t *tenants.Tenant, path string, read func(io.Reader) error) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	r.URL.RawQuery = wire.ParamAddress + "=" + url.QueryEscape(t.ID)
	resp, err := trip(workerSpec(t), r)
	if err == nil && resp == nil {
		err = errAsleep
	}
	if err != nil {
		return fmt.Errorf("asking the worker of %s for %s: %w", t.ID, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the worker of %s for %s: status %d", t.ID, path, resp.StatusCode)
	}
	return read(resp.Body)
}

func askStats(ctx context.Context, trip roundTrip, t *tenants.Tenant) (stats wire.Stats, err error) {
	err = ask(ctx, trip, t, wire.PathStats, func(r io.Reader) error { return json.NewDecoder(r).Decode(&stats) })
	return stats, err
}

func askMetrics(ctx context.Context, trip roundTrip, t *tenants.Tenant) (families map[string]*dto.MetricFamily, err error) {
	err = ask(ctx, trip, t, wire.PathMetrics, func(r io.Reader) error {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err = parser.TextToMetricFamilies(r)
		return err
	})
	return families, err
}
