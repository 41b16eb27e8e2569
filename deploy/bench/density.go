package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// The bars of the ladder. What they are for is told with each column.
const (
	barSleepingKiB = 2
	barScrapeMs    = 100
	barScrapeMB    = 2
	barWorkerMB    = 1.6
	barReloadMs    = 100
	barDelayMs     = 5
	barColdMs      = 10
	barCrowdMs     = 50
)

// barTenants is up to how many tenants the bars of a scrape and of a reload hold.
const barTenants = 10_000

// ladder is what the density bench goes through.
type ladder struct {
	rungs   []rung
	scrapes int // of each row; the median counts, as in what follows
	reloads int
	cold    int // tenants woken one after the other
	crowds  int // times that crowd tenants are woken at once
	crowd   int
	atOnce  int // tenants woken at once, on the first rung that has so many
}

// rung is a number of tenants in tenants.json, and how many of them are awake in
// turn.
type rung struct {
	tenants int
	awake   []int
}

var fullLadder = ladder{
	rungs: []rung{
		{500, []int{0, 100}},
		{2_000, []int{0, 100, 1_000}},
		{10_000, []int{0, 100, 1_000}},
		{50_000, []int{0, 100, 1_000}},
	},
	scrapes: 5, reloads: 7, cold: 50, crowds: 20, crowd: 17, atOnce: 5_000,
}

// row is what one rung was measured to cost with some of its tenants awake.
type row struct {
	tenants, awake int

	heapKiB, residentKiB float64 // of the edge, for each tenant that sleeps
	edge                 process
	goroutines           int

	scrape      time.Duration
	scrapeBytes int
	series      int // with a tenant's name

	reload, delay, calm time.Duration // delay: the slowest request in a reload; calm: in as long a time without one

	workers               []process // of those awake
	coldTimes, crowdTimes []time.Duration
}

// burst is what came of waking many tenants at once.
type burst struct {
	wakes
	tenants int
	peak    process // the edge at its largest
	limits  string  // what the edge said of them
	keptKiB float64 // heap of the edge for each tenant that was awake and sleeps again
	leftMB  float64 // and what stays of so many at once, whoever they were
}

// density goes up the ladder with the binaries in bin and prints it. The error
// says that it could not be measured; a bar that is missed is in the print.
func density(l ladder, bin string, out io.Writer) (err error) {
	bed, err := newDenseBed(bin)
	if err != nil {
		return err
	}
	var once sync.Once
	clean := func() { once.Do(bed.close) }
	defer clean()
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupt)
	go func() {
		if _, ok := <-interrupt; ok {
			clean()
			os.Exit(1)
		}
	}()

	began, load := time.Now(), loadAverage()
	base, err := bed.baseline()
	if err != nil {
		return err
	}
	var rows []row
	var all *burst
	for _, r := range l.rungs {
		atOnce := 0
		if all == nil && r.tenants >= l.atOnce+2*slices.Max(r.awake) {
			atOnce = l.atOnce
		}
		more, b, err := bed.climb(l, r, atOnce, base)
		if err != nil {
			return fmt.Errorf("%d tenants: %w\nthe edge's log ends with:\n%s", r.tenants, err, tail(bed.log(), 2000))
		}
		rows = append(rows, more...)
		if b != nil {
			all = b
		}
	}
	printLadder(out, rows, all, base)
	fmt.Fprintf(out, "\ntook %v; load average before %s, after %s\n", time.Since(began).Round(time.Second), load, loadAverage())
	return nil
}

// tail returns the last n bytes of text, from the beginning of a line.
func tail(text []byte, n int) []byte {
	if len(text) > n {
		text = text[len(text)-n:]
		if i := slices.Index(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
	}
	return text
}

func loadAverage() string {
	var one string
	data, _ := os.ReadFile("/proc/loadavg")
	fmt.Sscan(string(data), &one)
	return one
}

// baseline is what the edge takes with one tenant.
func (b *denseBed) baseline() (process, error) {
	if err := b.serve(1); err != nil {
		return process{}, err
	}
	defer b.stop()
	p, _, err := b.edgeProcess()
	return p, err
}

// climb measures one rung with an edge of its own.
func (b *denseBed) climb(l ladder, r rung, atOnce int, base process) ([]row, *burst, error) {
	if err := b.serve(r.tenants); err != nil {
		return nil, nil, err
	}
	defer b.stop()
	before, rows := slices.Max(r.awake), []row(nil)
	if err := b.prepare(max(before+atOnce, l.cold+l.crowds*l.crowd)); err != nil {
		return nil, nil, err
	}
	if b.prepared > 0 {
		b.stop() // it would still show what those cost that wrote
		if err := b.serve(r.tenants); err != nil {
			return nil, nil, err
		}
	}
	for _, awake := range r.awake {
		m := row{tenants: r.tenants, awake: awake}
		if err := b.wake(0, awake); err != nil {
			return nil, nil, err
		}
		var err error
		if m.edge, m.goroutines, err = b.edgeProcess(); err != nil {
			return nil, nil, err
		}
		if awake == 0 {
			m.heapKiB = float64(m.edge.heap-base.heap) / 1024 / float64(r.tenants-1)
			m.residentKiB = float64(m.edge.private-base.private) / 1024 / float64(r.tenants-1)
		} else if m.workers, err = b.workerProcesses(); err != nil {
			return nil, nil, err
		} else if len(m.workers) != awake {
			return nil, nil, fmt.Errorf("%d workers are there, want %d", len(m.workers), awake)
		}
		if err := b.scrapes(&m, l.scrapes); err != nil {
			return nil, nil, err
		}
		if err := b.reloads(&m, l.reloads); err != nil {
			return nil, nil, err
		}
		if awake == 0 {
			if err := b.cold(&m, l); err != nil {
				return nil, nil, err
			}
		}
		rows = append(rows, m)
	}
	if atOnce == 0 {
		return rows, nil, nil
	}
	all, err := b.burst(before, atOnce, rows[0].edge)
	return rows, all, err
}

// scrapes times n scrapes of the metrics, each after all that are awake had a
// request, so that all of them have news.
func (b *denseBed) scrapes(m *row, n int) error {
	var took []time.Duration
	for range n {
		if err := b.wake(0, m.awake); err != nil {
			return err
		}
		began := time.Now()
		text, err := b.admin("GET", "/api/v2/metrics")
		if err != nil {
			return err
		}
		took = append(took, time.Since(began))
		m.scrapeBytes, m.series = len(text), countSeries(text)
	}
	m.scrape = quantile(took, .5)
	return nil
}

// reloads times n changes of tenants.json, and what they cost the requests that
// one tenant sends all the while.
func (b *denseBed) reloads(m *row, n int) error {
	if err := b.wake(0, 1); err != nil {
		return err
	}
	s, err := b.startStream(0)
	if err != nil {
		return err
	}
	defer s.stop()
	var took, delays, calms []time.Duration
	for range n {
		text := b.nextTenants() // which is our work and not the edge's
		s.settle()
		began := time.Now()
		in, err := b.change(text)
		if err != nil {
			return err
		}
		took = append(took, in)
		s.settle()
		window := time.Since(began)
		delays = append(delays, s.slowest(began))
		began = time.Now()
		time.Sleep(window)
		s.settle()
		calms = append(calms, s.slowest(began))
	}
	m.reload, m.delay, m.calm = quantile(took, .5), quantile(delays, .5), quantile(calms, .5)
	if err := s.stop(); err != nil || m.awake > 0 {
		return err
	}
	return b.park(0)
}

// cold measures the time to the first byte of tenants that sleep, each time after the
// edge had its rest, and has them sleep again.
func (b *denseBed) cold(m *row, l ladder) error {
	clients, err := b.clients(l.crowd)
	if err != nil {
		return err
	}
	defer closeAll(clients)
	next := 0
	for range l.cold {
		if err := b.rest(); err != nil {
			return err
		}
		took, err := clients[0].first(b.selectOf(next))
		if err != nil {
			return err
		}
		m.coldTimes = append(m.coldTimes, took)
		next++
	}
	for range l.crowds {
		if err := b.rest(); err != nil {
			return err
		}
		w := b.atOnce(clients, next)
		if w.failed > 0 {
			return w.failure
		}
		m.crowdTimes = append(m.crowdTimes, w.times...)
		next += l.crowd
	}
	return b.parkAll()
}

// burst wakes n tenants at once, beside the first ones that are awake already, and
// then has all of them sleep. asleep is what the edge took when nobody had been
// awake. Go keeps something of each goroutine that there ever was beside others, for
// the next ones: what tenants keep themselves shows in some more that sleep again
// after it, as many as the first ones.
func (b *denseBed) burst(awake, n int, asleep process) (*burst, error) {
	clients, err := b.clients(n)
	if err != nil {
		return nil, err
	}
	defer closeAll(clients)
	all := &burst{tenants: n, limits: b.limitsLine()}
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { all.peak = b.watchEdge(done) })
	all.wakes = b.atOnce(clients, awake)
	close(done)
	watch.Wait()
	closeAll(clients)

	if err := b.parkAll(); err != nil {
		return nil, err
	}
	after, _, err := b.edgeProcess()
	if err != nil {
		return nil, err
	}
	if err := b.wake(awake+n, awake+n+awake); err != nil {
		return nil, err
	}
	if err := b.parkAll(); err != nil {
		return nil, err
	}
	more, _, err := b.edgeProcess()
	if err != nil {
		return nil, err
	}
	kept := float64(more.heap-after.heap) / float64(awake)
	all.keptKiB = kept / 1024
	all.leftMB = (float64(after.heap-asleep.heap) - kept*float64(awake+n)) / 1e6
	return all, nil
}

// dataDir is that of the i-th tenant.
func (b *denseBed) dataDir(i int) string { return filepath.Join(b.dir, "t", fmt.Sprint(i)) }
