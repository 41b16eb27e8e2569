package engine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// benchText is what one write stores.
var benchText = bytes.Repeat([]byte("t"), 100)

// BenchmarkSync is the floor for a durable write: overwrite and fdatasync.
func BenchmarkSync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := preallocate(f, 8<<20); err != nil {
		b.Fatal(err)
	}
	block := bytes.Repeat([]byte("b"), len(benchText)+frameHeader+30)
	for i := 0; b.Loop(); i++ {
		if _, err := f.WriteAt(block, int64(i%50_000*len(block))); err != nil {
			b.Fatal(err)
		}
		if err := syncData(f); err != nil {
			b.Fatal(err)
		}
	}
}

// benchDocument places a document of about size bytes in 1,000-byte scrolls and
// returns how many there are.
func benchDocument(b *testing.B, dir string, size int) int {
	n := size / 1000
	scrolls := make([]phext.Scroll, n)
	text := []byte(strings.Repeat("text ", 199))
	for i := range scrolls {
		scrolls[i] = phext.Scroll{At: benchPlace(i), Text: text}
	}
	if err := os.WriteFile(filepath.Join(dir, "doc.phext"), phext.AppendDocument(nil, scrolls), 0o600); err != nil {
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

// BenchmarkGroupCommit is the same for many writers at once.
func BenchmarkGroupCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			dir := b.TempDir()
			n := benchDocument(b, dir, 1_000_000)
			e := MustOpen(b, dir)
			MustView(b, e, "doc").Close()
			var next atomic.Int64
			done := make(chan error, writers)
			b.ResetTimer()
			for range writers {
				go func() {
					for {
						i := int(next.Add(1))
						if i > b.N {
							done <- nil
							return
						}
						if _, err := e.Put(ctx, "doc", benchPlace(i*7919%n), benchText, 0); err != nil {
							done <- err
							return
						}
					}
				}()
			}
			for range writers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen opens a document for the first time.
func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{1_000_000, 10_000_000, 100_000_000} {
		b.Run(fmt.Sprintf("%dMB", size/1_000_000), func(b *testing.B) {
			dir := b.TempDir()
			benchDocument(b, dir, size)
			d, err := openDirectory(dir)
			if err != nil {
				b.Fatal(err)
			}
			defer d.f.Close()
			b.SetBytes(int64(size))
			for b.Loop() {
				base, err := openBase(d, "doc")
				if err != nil {
					b.Fatal(err)
				}
				base.release()
			}
		})
	}
}
