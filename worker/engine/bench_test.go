package engine

import (
	"fmt"
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
				base, err := openBase(d, "doc", defaultLayout)
				if err != nil {
					b.Fatal(err)
				}
				base.release()
			}
		})
	}
}
