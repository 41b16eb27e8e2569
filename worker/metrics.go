package main

import (
	"sync"
	"time"

	"github.com/sqedge/sqedge/shared/wire"
)

// histogram is a [wire.Histogram] that many may use.
type histogram struct {
	mu sync.Mutex
	h  wire.Histogram
}

func (h *histogram) observe(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.h.Observe(d)
}

func (h *histogram) read() wire.Histogram {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.h
}
