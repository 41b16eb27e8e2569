package caddymodule

import (
	"strconv"
	"sync/atomic"
	"unique"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sqedge/sqedge/shared/wire"
)

// calls are what sq_api_calls_total says of one tenant. A tenant that sleeps keeps
// them, since counters must not fall, and there are several for each tenant that
// ever called: here each takes 32 bytes, in a prometheus.CounterVec 700.
type calls struct {
	newest atomic.Pointer[callCount] // a list to which is only ever added
}

// callCount counts the calls of an operation that got a status.
type callCount struct {
	op     unique.Handle[wire.Op]
	status int
	n      atomic.Uint64
	older  *callCount
}

// maxStatus is from where no status has a count of its own.
const maxStatus = 600

// count counts a call. It returns op as it is known: the caller's may be a part of
// the request's first line, which would live as long as whatever keeps it.
func (c *calls) count(op wire.Op, status int) wire.Op {
	status = min(status, maxStatus)
	for {
		newest := c.newest.Load()
		for known := newest; known != nil; known = known.older {
			if known.status == status && known.op.Value() == op {
				known.n.Add(1)
				return known.op.Value()
			}
		}
		first := &callCount{op: unique.Make(op), status: status, older: newest}
		first.n.Store(1)
		if c.newest.CompareAndSwap(newest, first) {
			return first.op.Value()
		}
	}
}

// collect sends the counts as a tenant's.
func (c *calls) collect(tenant string, ch chan<- prometheus.Metric) {
	for known := c.newest.Load(); known != nil; known = known.older {
		code := "other"
		if known.status < maxStatus {
			code = strconv.Itoa(known.status)
		}
		ch <- prometheus.MustNewConstMetric(callsDesc, prometheus.CounterValue, float64(known.n.Load()), tenant, string(known.op.Value()), code)
	}
}
