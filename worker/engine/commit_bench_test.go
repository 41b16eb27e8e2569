package engine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchText is what one write stores.
var benchText = bytes.Repeat([]byte("t"), 100)

// syncLoop is the floor for a durable write: the bytes of one record, written
// and synced by one thread, over and over.
type syncLoop struct {
	f        *os.File
	from, to int64 // where it writes
	at       int64
	data     []byte
}

func mustSyncLoop(b *testing.B) *syncLoop {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	if err := preallocate(f, 0, rotateAt); err != nil {
		b.Fatal(err)
	}
	l := &syncLoop{f: f, to: rotateAt, data: bytes.Repeat([]byte("b"), frameHeader+30+len(benchText))}
	b.Cleanup(func() { l.f.Close() })
	return l
}

// run returns the syncs per second.
func (l *syncLoop) run(b *testing.B, d time.Duration) float64 {
	start, n := time.Now(), 0
	for ; time.Since(start) < d; n++ {
		l.sync(b)
	}
	return float64(n) / time.Since(start).Seconds()
}

// latencies returns how long each sync took, until stop.
func (l *syncLoop) latencies(b *testing.B, stop <-chan struct{}) (all []time.Duration) {
	for {
		select {
		case <-stop:
			return all
		default:
		}
		start := time.Now()
		l.sync(b)
		all = append(all, time.Since(start))
	}
}

func (l *syncLoop) sync(b *testing.B) {
	if _, err := l.f.WriteAt(l.data, l.at); err != nil {
		b.Fatal(err)
	}
	if err := syncData(l.f); err != nil {
		b.Fatal(err)
	}
	if l.at += int64(len(l.data)); l.at+int64(len(l.data)) > l.to {
		l.at = l.from
	}
}

// follow has the loop write where the engine, which is at rest, will write next. A
// sync can take a fifth longer in one part of a disk than in the next, which would
// tell more about where a file lies than about the engine. Nobody reads that log.
func (l *syncLoop) follow(b *testing.B, e *Engine) {
	e.exclusively(func() {
		f, err := e.control.open(e.wal.newest().name(), unix.O_RDWR)
		if err != nil {
			b.Fatal(err)
		}
		l.f.Close()
		l.f, l.from, l.at, l.to = f, e.wal.used, e.wal.used, e.wal.alloc
	})
}

// BenchmarkGroupCommit compares durable updates by many writers with the bare
// loop. The two take turns on the same part of the disk, and the medians of all
// turns are printed, because a disk that others use too changes its speed from one
// second to the next:
//
//	writes/s   by the engine
//	syncs/s    by the bare loop
//	x          the first over the second
//	cpu-us/op  that the process spends on one write
//	writes/batch
func BenchmarkGroupCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			dir := b.TempDir()
			n := benchDocument(b, dir, 1_000_000)
			var batches atomic.Int64
			opts := options(dir)
			opts.ObserveSync = func(time.Duration) { batches.Add(1) }
			e := MustOpenWith(b, opts)
			MustView(b, e, "doc").Close()
			bare := mustSyncLoop(b)
			const turn = 25 * time.Millisecond
			var total int64
			var syncs, writes, ratios, cpu []float64
			for b.Loop() {
				bare.follow(b, e)
				s := bare.run(b, turn)
				start, used := time.Now(), cpuTime(b)
				done := writeFor(b, e, n, writers, turn)
				w := float64(done) / time.Since(start).Seconds()
				total += done
				cpu = append(cpu, float64((cpuTime(b)-used).Nanoseconds())/1000/float64(done))
				syncs, writes, ratios = append(syncs, s), append(writes, w), append(ratios, w/s)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(total)/float64(batches.Load()), "writes/batch")
			b.ReportMetric(median(syncs), "syncs/s")
			b.ReportMetric(median(writes), "writes/s")
			b.ReportMetric(median(ratios), "x")
			b.ReportMetric(median(cpu), "cpu-us/op")
		})
	}
}

// writeFor updates scrolls of a document that has n with many writers, and
// returns how many updates were acknowledged.
func writeFor(b *testing.B, e *Engine, n, writers int, d time.Duration) int64 {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	var over atomic.Bool
	time.AfterFunc(d, func() { over.Store(true) })
	for range writers {
		all.Go(func() {
			for !over.Load() {
				i := int(next.Add(1))
				_, err := e.Put(ctx, "doc", benchPlace(i*7919%n), benchText, 0)
				if err != nil {
					failed.Store(new(err))
					return
				}
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	return next.Load()
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
