package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

const (
	// askFor is how long a scrape goes on asking workers: enough for some hundreds
	// of them. Where there are more, those come first that were asked longest ago,
	// and of the others it shows what they said then.
	askFor = 40 * time.Millisecond

	scrapeTimeout = 2 * time.Second // bounds how long one worker may hold it up
	scrapeAtOnce  = 16              // are asked at the same time
)

// The workers' histograms are summed over all of them: a series for each tenant
// would be too many.
var (
	syncsDesc       = prometheus.NewDesc("sq_log_sync_seconds", "Time of one sync of a write-ahead log, over all workers.", nil, nil)
	checkpointsDesc = prometheus.NewDesc("sq_checkpoint_seconds", "Time of writing one document's checkpoint, over all workers.", nil, nil)
)

// workerScraper asks the running workers for their numbers. A worker counts
// from its start, so the scraper adds up what each has gained since it was last
// asked; the sums never fall.
type workerScraper struct {
	mu                 sync.Mutex // held for the whole of a scrape
	syncs, checkpoints wire.Histogram
	seen               map[string]seenWorker // by tenant, of the workers that run
	storage            storageBook
}

// seenWorker is what one worker process said when it was last asked.
type seenWorker struct {
	pid   int
	stats wire.Stats
	asked time.Time
}

func newWorkerScraper() *workerScraper {
	return &workerScraper{seen: make(map[string]seenWorker), storage: storageBook{known: make(map[string]stored)}}
}

// scrape asks the workers that run, which keeps none awake, and sends the sums.
// One that does not answer is left out. It returns the storage of each tenant, as
// far as it is known.
func (ws *workerScraper) scrape(s *serving, registry *tenants.Registry, active func(string) bool, ch chan<- prometheus.Metric) map[string]int64 {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	states := s.super.States()
	ws.ask(s.super, registry, states)
	for tenant := range ws.seen {
		if states[tenant].State == supervisor.Asleep {
			delete(ws.seen, tenant)
		}
	}
	ws.storage.measure(registry.Tenants(), active, states, time.Now().Add(measureFor).After)
	for desc, h := range map[*prometheus.Desc]*wire.Histogram{syncsDesc: &ws.syncs, checkpointsDesc: &ws.checkpoints} {
		total, upTo := h.Cumulative()
		ch <- prometheus.MustNewConstHistogram(desc, total, h.Sum, upTo)
	}
	storage := make(map[string]int64, len(ws.storage.known))
	for tenant, known := range ws.storage.known {
		storage[tenant] = known.bytes
	}
	return storage
}

// ask asks the workers that are ready, as long as there is time.
func (ws *workerScraper) ask(super *supervisor.Supervisor, registry *tenants.Registry, states map[string]supervisor.Status) {
	var ready []*tenants.Tenant
	for id, state := range states {
		if tenant := registry.ByID(id); tenant != nil && state.State == supervisor.Ready {
			ready = append(ready, tenant)
		}
	}
	slices.SortFunc(ready, func(a, b *tenants.Tenant) int { return ws.seen[a.ID].asked.Compare(ws.seen[b.ID].asked) })

	now := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	answers := make([]*wire.Stats, len(ready))
	var group errgroup.Group
	group.SetLimit(scrapeAtOnce)
	for i, tenant := range ready {
		if time.Since(now) > askFor {
			break
		}
		group.Go(func() error {
			if stats, err := askStats(ctx, super.Peek, tenant); err == nil {
				answers[i] = &stats
			}
			return nil
		})
	}
	group.Wait()
	for i, stats := range answers {
		if stats != nil {
			ws.add(ready[i].ID, states[ready[i].ID].PID, *stats, now)
		}
	}
}

// add takes what a worker said that was asked at a time.
func (ws *workerScraper) add(tenant string, pid int, stats wire.Stats, asked time.Time) {
	ws.storage.set(tenant, stats.StorageBytes, asked)
	before := ws.seen[tenant]
	if before.pid != pid {
		before = seenWorker{}
	}
	ws.syncs.Gain(stats.Syncs, before.stats.Syncs)
	ws.checkpoints.Gain(stats.Checkpoints, before.stats.Checkpoints)
	ws.seen[tenant] = seenWorker{pid, stats, asked}
}

func (ws *workerScraper) forget(tenant string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.seen, tenant)
	delete(ws.storage.known, tenant)
}

// roundTrip sends a request to a tenant's worker, as the supervisor's RoundTrip
// does, which wakes one that sleeps, or Peek, which answers nil for it.
type roundTrip func(context.Context, supervisor.Spec, *supervisor.Request) (*supervisor.Answer, error)

// errAsleep is why a worker that was only to be peeked at said nothing.
var errAsleep = errors.New("it is not ready")

// ask sends a worker a GET that is no operation.
func ask(ctx context.Context, trip roundTrip, t *tenants.Tenant, path string, read func(io.Reader) error) error {
	target := path + "?" + wire.ParamAddress + "=" + url.QueryEscape(t.ID)
	ans, err := trip(ctx, workerSpec(t), &supervisor.Request{Method: http.MethodGet, Target: target})
	if err == nil && ans == nil {
		err = errAsleep
	}
	if err != nil {
		return fmt.Errorf("asking the worker of %s for %s: %w", t.ID, path, err)
	}
	defer ans.Body.Close()
	if ans.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the worker of %s for %s: status %d", t.ID, path, ans.StatusCode)
	}
	return read(ans.Body)
}

func askStats(ctx context.Context, trip roundTrip, t *tenants.Tenant) (stats wire.Stats, err error) {
	err = ask(ctx, trip, t, wire.PathStats, func(r io.Reader) error { return json.NewDecoder(r).Decode(&stats) })
	return stats, err
}
