package caddymodule

import (
	"os"
	goruntime "runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"sync"
)

// heapFloor is how much garbage the edge may gather, in bytes, before it is
// collected. By itself Go collects once the heap has doubled: of an edge, which
// holds a few MiB, dozens of times a second under load, and each time takes a part
// of the processors from the requests. Measured, the 99th percentile of a tenant's
// requests beside a hot one was twice as long.
const heapFloor = 64 << 20

// keepHeap has the process collect garbage less often, from the first call on. An
// operator who sets GOGC has it as set.
var keepHeap = sync.OnceFunc(func() {
	if os.Getenv("GOGC") == "" {
		percent := 100
		relax(&percent)
	}
})

// relax sets after each collection how much the heap may grow until the next.
func relax(percent *int) {
	live := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}}
	gometrics.Read(live)
	if fit := fitPercent(live[0].Value.Uint64()); fit != *percent {
		*percent = fit
		debug.SetGCPercent(fit)
	}
	// It goes with the next collection.
	goruntime.AddCleanup(new([]byte), relax, percent)
}

// fitPercent returns by how many percent a heap may grow that holds so many bytes:
// in steps, for a change stops the process for a moment.
func fitPercent(live uint64) int {
	percent := 1600
	for percent > 100 && uint64(percent)*live > 100*heapFloor {
		percent /= 2
	}
	return percent
}
