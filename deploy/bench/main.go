// Bench measures the edge. Its first argument may name what:
//
//	(nothing)   the paths of a request, as told below
//	fairness    what one tenant at a hundred times its share costs the others
//	density     what tenants cost that sleep, and that are awake
//
// Without a name it prints one table from one run: requests a second
// and the edge's CPU time for each request, for a select of a 100-byte scroll
// through the worker's socket directly, through Caddy's stock reverse_proxy to
// the same worker and through the sq handler; then durable updates through the
// edge into small and large documents. It runs the binaries in bin/.
//
// All paths are measured in turns within each round, so that a machine that
// slows down slows all of them; each cell is the median of its rounds, and each ratio
// that of the rounds' ratios. Both ways through the edge have the same server options,
// so that they differ in their handlers alone.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	mode, args := "", os.Args[1:]
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		mode, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("bench "+mode, flag.ExitOnError)
	var err error
	switch mode {
	case "":
		rounds, each := roundFlags(flags)
		profile := flags.String("profile", "", "instead of the table: load (c) at 64 connections and write the edge's CPU profile to this file")
		parse(flags, args)
		err = withTestbed(func(b *testbed) error { return b.paths(*rounds, *each, *profile) })
	case "hot-clients": // of fairness
		elsewhere := flags.Duration("elsewhere", 0, "")
		parse(flags, args)
		err = hotClients(*elsewhere)
	case "fairness":
		rounds, each := roundFlags(flags)
		parse(flags, args)
		err = withTestbed(func(b *testbed) error { return b.fairness(*rounds, *each) })
	case "density":
		quick := flags.Bool("quick", false, "the first rung of the ladder alone")
		parse(flags, args)
		l := fullLadder
		if *quick {
			l.rungs = l.rungs[:1]
		}
		err = density(l, "bin", os.Stdout)
	default:
		err = fmt.Errorf("no mode %q: there are fairness and density, and without one the paths of a request", mode)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func roundFlags(flags *flag.FlagSet) (rounds *int, each *time.Duration) {
	return flags.Int("rounds", 3, "how often each cell is measured; the median counts"),
		flags.Duration("each", 1500*time.Millisecond, "how long each measurement takes")
}

func parse(flags *flag.FlagSet, args []string) {
	flags.Parse(args) // exits where they are wrong
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: unexpected argument %q\n", flags.Arg(0))
		os.Exit(2)
	}
}

func withTestbed(measure func(*testbed) error) error {
	bed, err := newTestbed()
	if err != nil {
		return err
	}
	defer bed.close()
	return measure(bed)
}

// connections are the numbers of clients that wait for answers at once.
var connections = []int{1, 16, 64}

// documents are the sizes of the documents that updates go into.
var documents = []struct {
	name  string
	bytes int
}{{"10KB", 10 << 10}, {"10MB", 10 << 20}, {"100MB", 100 << 20}}

// result is one measurement.
type result struct {
	perSecond float64
	edgeCPU   float64 // µs of the edge's CPU time for each request
	allocs    float64 // of the edge for each request
}

// paths compares the ways of a request, or writes a profile of one.
func (b *testbed) paths(rounds int, each time.Duration, profile string) error {
	paths := []struct {
		name   string
		target target
	}{
		{"(a) worker's socket", b.direct("bench", coordinate(1))},
		{"(b) reverse_proxy", b.proxied("bench", coordinate(1))},
		{"(c) sq", b.edge("GET", "/select?p=bench&c="+coordinate(1), "")},
	}
	if profile != "" {
		return b.profile(paths[2].target, 64, profile)
	}
	reads := make(map[string][]result)
	for range rounds {
		for _, n := range connections {
			for _, p := range paths {
				r, err := b.measure([]target{p.target}, n, each)
				if err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
				reads[cell(p.name, n)] = append(reads[cell(p.name, n)], r)
			}
		}
	}
	updates := make(map[string][]result)
	for range rounds {
		for _, n := range connections {
			for _, d := range documents {
				r, err := b.measure(b.updates(d.name, d.bytes), n, each)
				if err != nil {
					return fmt.Errorf("update into %s: %w", d.name, err)
				}
				updates[cell(d.name, n)] = append(updates[cell(d.name, n)], r)
			}
		}
	}

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%s\n", strings.Join([]string{"1 conn req/s", "edge µs/req", "16 conns req/s", "edge µs/req", "64 conns req/s", "edge µs/req", "allocs/req", ""}, "\t"))
	row := func(name string, cells map[string][]result) {
		fmt.Fprintf(w, "%s\t", name)
		for _, n := range connections {
			m := median(cells[cell(name, n)])
			fmt.Fprintf(w, "%.0f\t%.0f\t", m.perSecond, m.edgeCPU)
		}
		fmt.Fprintf(w, "%.0f\t\n", median(cells[cell(name, connections[len(connections)-1])]).allocs)
	}
	fmt.Fprintf(w, "select 100 B\t\t\t\t\t\t\t\t\n")
	for _, p := range paths {
		row(p.name, reads)
	}
	fmt.Fprintf(w, "durable update 100 B into\t\t\t\t\t\t\t\t\n")
	for _, d := range documents {
		row(d.name, updates)
	}
	w.Flush()

	fmt.Println()
	proxy, sq := reads[cell("(b) reverse_proxy", 64)], reads[cell("(c) sq", 64)]
	bar("(c)/(b) select, 64 connections", medianRatio(sq, proxy, func(r result) float64 { return r.perSecond }), 1.6)
	bar("(b)/(c) edge CPU of it", medianRatio(proxy, sq, func(r result) float64 { return r.edgeCPU }), 1/0.6)
	for _, n := range connections {
		bar(fmt.Sprintf("update into 100MB / into 10KB, %d connections", n), median(updates[cell("100MB", n)]).perSecond/median(updates[cell("10KB", n)]).perSecond, 0.8)
	}
	return nil
}

func bar(what string, ratio, least float64) {
	verdict := "met"
	if ratio < least {
		verdict = "MISSED"
	}
	fmt.Printf("%-50s %.2f  (bar %.2f: %s)\n", what, ratio, least, verdict)
}

func cell(name string, connections int) string { return fmt.Sprintf("%s/%d", name, connections) }

// medianRatio compares what was measured side by side in each round.
func medianRatio(over, under []result, of func(result) float64) float64 {
	ratios := make([]float64, len(over))
	for i := range ratios {
		ratios[i] = of(over[i]) / of(under[i])
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

func median(results []result) result {
	sorted := slices.SortedFunc(slices.Values(results), func(a, b result) int {
		if a.perSecond < b.perSecond {
			return -1
		}
		return 1
	})
	return sorted[len(sorted)/2]
}
