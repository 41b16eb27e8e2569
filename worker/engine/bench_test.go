package engine

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// benchDocument places a document of about size bytes in 1,000-byte scrolls and
// returns how many there are.
func benchDocument(b *testing.B, dir string, size int) int {
	n := size / 1000
	text := []byte(strings.Repeat("text ", 199))
	f, err := os.OpenFile(filepath.Join(dir, "doc.phext"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	at := phext.Origin
	var breaks []byte
	for i := range n {
		breaks = phext.AppendBreaks(breaks[:0], at, benchPlace(i))
		w.Write(breaks)
		w.Write(text)
		at = benchPlace(i)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	return n
}

func benchPlace(i int) phext.Coordinate {
	at := phext.Origin
	at[6], at[7], at[8] = uint16(1+i/10_000), uint16(1+i/100%100), uint16(1+i%100)
	return at
}

// BenchmarkUpdate is a durable update of one scroll, by document size.
func BenchmarkUpdate(b *testing.B) {
	for _, size := range []int{10_000, 10_000_000, 100_000_000} {
		b.Run(fmt.Sprintf("%dKB", size/1000), func(b *testing.B) {
			dir := b.TempDir()
			n := benchDocument(b, dir, size)
			e := MustOpen(b, dir)
			MustView(b, e, "doc").Close()
			for i := 0; b.Loop(); i++ {
				if _, err := e.Put(ctx, "doc", benchPlace(i*7919%n), benchText, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchSizes runs one benchmark over documents of 1 MB to 1 GB, in scrolls of
// 1 KB. It prints the processor time, which other processes change less than the
// clock's, and the exponent by which that grows with the size: 1 is linear.
func benchSizes(b *testing.B, prepare func(b *testing.B, dir directory) (op func())) {
	sizes := []int{1_000_000, 10_000_000, 100_000_000, 1_000_000_000}
	var x, y []float64 // logarithms of size and of time
	for _, size := range sizes {
		b.Run(fmt.Sprintf("%dMB", size/1_000_000), func(b *testing.B) {
			path := b.TempDir()
			benchDocument(b, path, size)
			dir, err := openDirectory(path)
			if err != nil {
				b.Fatal(err)
			}
			defer dir.f.Close()
			b.SetBytes(int64(size))
			op := prepare(b, dir)
			op() // the mapping's pages are found
			used := cpuTime(b)
			for b.Loop() {
				op()
			}
			cpu := (cpuTime(b) - used).Seconds() * 1000 / float64(b.N)
			b.ReportMetric(cpu, "cpu-ms/op")
			if n := len(x); n == 0 || x[n-1] != math.Log(float64(size)) {
				x, y = append(x, math.Log(float64(size))), append(y, 0)
			}
			y[len(y)-1] = math.Log(cpu)
		})
	}
	b.Run("exponent", func(b *testing.B) {
		if len(x) < 2 {
			b.Skip("there is only one size")
		}
		mx, my := mean(x), mean(y)
		var num, den float64
		for i := range x {
			num += (x[i] - mx) * (y[i] - my)
			den += (x[i] - mx) * (x[i] - mx)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(num/den, "exponent")
	})
}

func mean(v []float64) (m float64) {
	for _, n := range v {
		m += n / float64(len(v))
	}
	return m
}

// BenchmarkOpen opens a document whose file is in the page cache.
func BenchmarkOpen(b *testing.B) {
	benchSizes(b, func(b *testing.B, dir directory) func() {
		return func() {
			base, err := openBase(dir, "doc", defaultLayout)
			if err != nil {
				b.Fatal(err)
			}
			base.release()
		}
	})
}

// BenchmarkTOC makes the table of contents of an open document.
func BenchmarkTOC(b *testing.B) {
	benchSizes(b, func(b *testing.B, dir directory) func() {
		base, err := openBase(dir, "doc", defaultLayout)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(base.release)
		c := newContent(base)
		var line []byte
		return func() {
			c.scrolls(func(at phext.Coordinate, text []byte) bool {
				line = append(at.Append(append(line[:0], "* "...)), ": "...)
				line = phext.AppendSummary(line, text)
				return true
			})
		}
	})
}
