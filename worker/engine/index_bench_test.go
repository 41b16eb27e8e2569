package engine

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// benchScrolls returns about size bytes of scrolls of one length.
func benchScrolls(size, length int) []byte {
	var text []byte
	at, scroll := phext.Origin, bytes.Repeat([]byte("t"), length)
	for i := 0; len(text) < size; i++ {
		next := phext.Origin
		next[5], next[6], next[7], next[8] = uint16(1+i/1_000_000), uint16(1+i/10_000%100), uint16(1+i/100%100), uint16(1+i%100)
		text = append(phext.AppendBreaks(text, at, next), scroll...)
		at = next
	}
	return text
}

// BenchmarkIndex compares layouts of the index, by the document's size and the
// length of its scrolls:
//
//	cpu-ns/op  processor time to select a scroll at random
//	B-index    memory of the index
//	%-of-text  the same, of the text
func BenchmarkIndex(b *testing.B) {
	for _, length := range []int{60, 1000} {
		for _, mb := range []int{1, 10, 100} {
			text := benchScrolls(mb*1_000_000, length)
			for _, l := range []layout{{dense: math.MaxInt}, {block: 8 << 10}, {block: 16 << 10}, {block: 32 << 10}, {block: 64 << 10}} {
				name := "dense"
				if l.dense == 0 {
					name = fmt.Sprintf("%dKiB", l.block>>10)
				}
				b.Run(fmt.Sprintf("%dMB/%dB/%s", mb, length, name), func(b *testing.B) {
					base := &base{data: text}
					if err := base.parse(l); err != nil {
						b.Fatal(err)
					}
					c := newContent(base)
					var places []phext.Coordinate
					for i := range 4096 {
						places = append(places, base.position(base.start(), i*7919%base.index.scrolls).place.Coordinate())
					}
					used := cpuTime(b)
					for i := 0; b.Loop(); i++ {
						if len(c.get(places[i%len(places)])) != length {
							b.Fatal("a scroll is not found")
						}
					}
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(float64((cpuTime(b)-used).Nanoseconds())/float64(b.N), "cpu-ns/op")
					b.ReportMetric(float64(base.index.bytes()), "B-index")
					b.ReportMetric(100*float64(base.index.bytes())/float64(len(text)), "%-of-text")
				})
			}
		}
	}
}
