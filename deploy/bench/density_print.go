package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// column is one of the ladder's: what it shows of a row, "" for nothing.
type column struct {
	head, unit string
	bar        float64 // what the value may be at most; 0 for no bar
	upTo       int     // rows of more tenants have no bar; 0 for none such
	from       int     // likewise those of fewer
	decimals   int
	value      func(*row) (float64, bool)
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// always and the others say for which rows a column has a value.
func always(f func(*row) float64) func(*row) (float64, bool) {
	return func(m *row) (float64, bool) { return f(m), true }
}

func asleep(f func(*row) float64) func(*row) (float64, bool) {
	return func(m *row) (float64, bool) {
		if m.awake > 0 {
			return 0, false
		}
		return f(m), true
	}
}

func awake(f func(*row) float64) func(*row) (float64, bool) {
	return func(m *row) (float64, bool) {
		if m.awake == 0 {
			return 0, false
		}
		return f(m), true
	}
}

// edgeColumns and the others are printed one below the other, for a table of all
// would be too wide.
var edgeColumns = []column{
	{head: "heap/sleeping", unit: "KiB", bar: barSleepingKiB, decimals: 2, value: asleep(func(m *row) float64 { return m.heapKiB })},
	// With fewer, what the edge itself takes varies by more.
	{head: "private/sleeping", unit: "KiB", bar: barSleepingKiB, from: barTenants, decimals: 2, value: asleep(func(m *row) float64 { return m.residentKiB })},
	{head: "edge private", unit: "MB", decimals: 1, value: always(func(m *row) float64 { return float64(m.edge.private) / 1e6 })},
	{head: "descriptors", value: always(func(m *row) float64 { return float64(m.edge.descriptors) })},
	{head: "threads", value: always(func(m *row) float64 { return float64(m.edge.threads) })},
	{head: "goroutines", value: always(func(m *row) float64 { return float64(m.goroutines) })},
	{head: "scrape", unit: "ms", bar: barScrapeMs, upTo: barTenants, decimals: 1, value: always(func(m *row) float64 { return ms(m.scrape) })},
	{head: "scrape", unit: "MB", bar: barScrapeMB, upTo: barTenants, decimals: 3, value: always(func(m *row) float64 { return float64(m.scrapeBytes) / 1e6 })},
	{head: "tenants' series", value: always(func(m *row) float64 { return float64(m.series) })},
	{head: "reload", unit: "ms", bar: barReloadMs, upTo: barTenants, decimals: 1, value: always(func(m *row) float64 { return ms(m.reload) })},
	{head: "slowest request", unit: "ms", decimals: 1, value: always(func(m *row) float64 { return ms(m.delay) })},
	{head: "without reload", unit: "ms", decimals: 1, value: always(func(m *row) float64 { return ms(m.calm) })},
	{head: "delay", unit: "ms", bar: barDelayMs, upTo: barTenants, decimals: 1, value: always(func(m *row) float64 { return max(0, ms(m.delay-m.calm)) })},
}

var workerColumns = []column{
	{head: "private p50", unit: "MB", bar: barWorkerMB, decimals: 2, value: awake(func(m *row) float64 { return float64(of(m.workers, .5, private)) / 1e6 })},
	{head: "private max", unit: "MB", decimals: 2, value: awake(func(m *row) float64 { return float64(of(m.workers, 1, private)) / 1e6 })},
	{head: "threads p50", value: awake(func(m *row) float64 { return float64(of(m.workers, .5, threads)) })},
	{head: "threads max", value: awake(func(m *row) float64 { return float64(of(m.workers, 1, threads)) })},
	{head: "descriptors max", value: awake(func(m *row) float64 { return float64(of(m.workers, 1, descriptors)) })},
}

var coldColumns = []column{
	{head: "alone p50", unit: "ms", bar: barColdMs, decimals: 1, value: asleep(func(m *row) float64 { return ms(quantile(m.coldTimes, .5)) })},
	{head: "alone p99", unit: "ms", decimals: 1, value: asleep(func(m *row) float64 { return ms(quantile(m.coldTimes, .99)) })},
	{head: "beside 16 p50", unit: "ms", decimals: 1, value: asleep(func(m *row) float64 { return ms(quantile(m.crowdTimes, .5)) })},
	{head: "beside 16 p99", unit: "ms", bar: barCrowdMs, decimals: 1, value: asleep(func(m *row) float64 { return ms(quantile(m.crowdTimes, .99)) })},
}

func private(p process) int64     { return p.private }
func threads(p process) int64     { return int64(p.threads) }
func descriptors(p process) int64 { return int64(p.descriptors) }

// of returns a quantile of what the processes take of something.
func of(processes []process, q float64, what func(process) int64) int64 {
	values := make([]int64, len(processes))
	for i, p := range processes {
		values[i] = what(p)
	}
	slices.SortFunc(values, cmp.Compare)
	return values[min(len(values)-1, int(q*float64(len(values))))]
}

// printLadder prints what was measured, and how many bars it misses.
func printLadder(out io.Writer, rows []row, all *burst, base process) {
	missed := 0
	fmt.Fprintf(out, "the edge with one tenant: %.1f MB private, heap %.1f MB, %d descriptors, %d threads\n", float64(base.private)/1e6, float64(base.heap)/1e6, base.descriptors, base.threads)
	for _, table := range []struct {
		title   string
		columns []column
	}{
		{"the edge", edgeColumns},
		{"each worker that is awake", workerColumns},
		{"time to the first byte of a tenant that sleeps, each time with all spare workers there", coldColumns},
	} {
		fmt.Fprintf(out, "\n%s\n", table.title)
		missed += printTable(out, table.columns, rows)
	}
	if all != nil {
		fmt.Fprintf(out, "\n%d tenants woken at once (%s)\n", all.tenants, all.limits)
		fmt.Fprintf(out, "  failed: %d (bar 0: %s)", all.failed, verdict(all.failed > 0, &missed))
		if all.failure != nil {
			fmt.Fprintf(out, ", such as: %v", all.failure)
		}
		if len(all.times) > 0 {
			fmt.Fprintf(out, "\n  first byte: p50 %.1f s, p99 %.1f s, the last %.1f s", quantile(all.times, .5).Seconds(), quantile(all.times, .99).Seconds(), quantile(all.times, 1).Seconds())
		}
		fmt.Fprintf(out, "\n  answered 503 on the way, and asked again after Retry-After: %d times", all.refused)
		fmt.Fprintf(out, "\n  the edge at its largest: %.1f MB private, %d descriptors, %d threads\n", float64(all.peak.private)/1e6, all.peak.descriptors, all.peak.threads)
		fmt.Fprintf(out, "  heap of the edge for each that was awake and sleeps again: %.2f KiB (bar %d: %s)\n", all.keptKiB, barSleepingKiB, verdict(all.keptKiB > barSleepingKiB, &missed))
		fmt.Fprintf(out, "  and what Go keeps for as many goroutines at once, once for all: %.1f MB\n", all.leftMB)
	}
	if missed == 0 {
		fmt.Fprintln(out, "\nall bars met")
	} else {
		fmt.Fprintf(out, "\n%d bars MISSED\n", missed)
	}
}

func verdict(miss bool, missed *int) string {
	if miss {
		*missed++
		return "MISSED"
	}
	return "met"
}

func printTable(out io.Writer, columns []column, rows []row) (missed int) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "tenants\tawake\t")
	for _, c := range columns {
		fmt.Fprintf(w, "%s\t", c.head)
	}
	fmt.Fprint(w, "\n\t\t")
	for _, c := range columns {
		fmt.Fprintf(w, "%s\t", c.unit)
	}
	fmt.Fprint(w, "\nbar\t\t")
	for _, c := range columns {
		if c.bar != 0 {
			fmt.Fprintf(w, "%v", c.bar)
		}
		fmt.Fprint(w, "\t")
	}
	fmt.Fprintln(w)
	for i := range rows {
		m := &rows[i]
		if !slices.ContainsFunc(columns, func(c column) bool { _, ok := c.value(m); return ok }) {
			continue
		}
		fmt.Fprintf(w, "%d\t%d\t", m.tenants, m.awake)
		for _, c := range columns {
			value, ok := c.value(m)
			if !ok {
				fmt.Fprint(w, "\t")
				continue
			}
			miss := c.bar != 0 && value > c.bar && m.tenants >= c.from && (c.upTo == 0 || m.tenants <= c.upTo)
			if miss {
				missed++
				fmt.Fprint(w, "MISSED ")
			}
			fmt.Fprintf(w, "%.*f\t", c.decimals, value)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	return missed
}
