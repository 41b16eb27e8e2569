package engine

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkStall prints how long writers of a 100 MB document wait, in
// microseconds, with and without a checkpoint of it running: the median, 99 of
// 100, and the longest. A bare loop of syncs by one thread beside the writing of
// the same file says what the disk itself makes each sync wait:
//
//	alone-*   the engine's writes, nothing else going on
//	beside-*  the engine's writes, beside a checkpoint
//	syncs-*   bare syncs, beside a file written as a checkpoint writes it
//	x-max     the longest write in longest bare syncs, both beside the file
func BenchmarkStall(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			dir := b.TempDir()
			n := benchDocument(b, dir, 100_000_000)
			e := MustOpen(b, dir)
			MustView(b, e, "doc").Close()
			bare := mustSyncLoop(b)
			var alone, beside, syncs []time.Duration
			for b.Loop() {
				stop := make(chan struct{})
				go func() { time.Sleep(500 * time.Millisecond); close(stop) }()
				alone = append(alone, latencies(b, e, n, writers, stop)...)
				stop = make(chan struct{})
				go func() {
					defer close(stop)
					if err := e.checkpoint(e.docs["doc"]); err != nil {
						b.Error(err)
					}
				}()
				beside = append(beside, latencies(b, e, n, writers, stop)...)
				stop = make(chan struct{})
				go func() {
					defer close(stop)
					v := MustView(b, e, "doc")
					defer v.Close()
					t, err := e.writeTemp(v.content)
					if err != nil {
						b.Error(err)
						return
					}
					t.close()
				}()
				syncs = append(syncs, bare.latencies(b, stop)...)
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/op")
			b.ReportMetric(0, "ns/op")
			for name, l := range map[string][]time.Duration{"alone": alone, "beside": beside, "syncs": syncs} {
				slices.Sort(l)
				for unit, d := range map[string]time.Duration{"p50": l[len(l)/2], "p99": l[len(l)*99/100], "max": l[len(l)-1]} {
					b.ReportMetric(float64(d.Microseconds()), name+"-"+unit)
				}
			}
			b.ReportMetric(float64(slices.Max(beside))/float64(slices.Max(syncs)), "x-max")
		})
	}
}

// latencies returns how long each update by many writers took, until stop.
func latencies(b *testing.B, e *Engine, n, writers int, stop <-chan struct{}) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			var mine []time.Duration
			for i := w; ; i += writers {
				select {
				case <-stop:
					mu.Lock()
					defer mu.Unlock()
					all = append(all, mine...)
					return
				default:
				}
				start := time.Now()
				if _, err := e.Put(ctx, "doc", benchPlace(i*7919%n), benchText, 0); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(start))
			}
		})
	}
	group.Wait()
	return all
}
