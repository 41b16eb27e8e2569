package engine

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"
)

// BenchmarkKeys fills the table with as many keys as may be kept, and reports the
// memory of each, and what it takes to encode the file, which writers wait for.
func BenchmarkKeys(b *testing.B) {
	var before, after runtime.MemStats
	var ks keys
	now := time.Now()
	for range b.N {
		ks = keys{}
		runtime.GC()
		runtime.ReadMemStats(&before)
		ks.init(now)
		for i := range uint64(maxKeys) {
			k := &keyed{receipt: receipt{time: now.Unix()}}
			binary.LittleEndian.PutUint64(k.key[:], i*0x9e3779b97f4a7c15)
			ks.enter(k)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/maxKeys, "bytes/key")
		start := time.Now()
		data := ks.encode(1, now)
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "encode-ms")
		b.ReportMetric(float64(len(data))/maxKeys, "file-bytes/key")
	}
}
