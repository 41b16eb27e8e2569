package caddymodule

import (
	"maps"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sqedge/sqedge/shared/wire"
)

// collected returns the counts of calls by "operation status".
func collected(t *testing.T, c *calls) map[string]float64 {
	t.Helper()
	ch := make(chan prometheus.Metric, 100)
	c.collect("alpha", ch)
	close(ch)
	counts := make(map[string]float64)
	for metric := range ch {
		var m dto.Metric
		if err := metric.Write(&m); err != nil {
			t.Fatal(err)
		}
		labels := make(map[string]string)
		for _, pair := range m.Label {
			labels[pair.GetName()] = pair.GetValue()
		}
		series := labels["method"] + " " + labels["code"]
		if _, twice := counts[series]; twice || labels["tenant"] != "alpha" {
			t.Errorf("series %v is there twice, or another tenant's", labels)
		}
		counts[series] = m.Counter.GetValue()
	}
	return counts
}

func TestCallsAreCountedOnceEachWhoeverCallsAtTheSameTime(t *testing.T) {
	const callers, rounds = 8, 1000
	var c calls
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for range rounds {
				for _, op := range []wire.Op{wire.Select, wire.Update, "invalid"} {
					c.count(op, 200)
				}
				c.count(wire.Select, 404)
				c.count(wire.Select, 600) // what no worker of ours says
				c.count(wire.Select, 999)
			}
		})
	}
	group.Wait()
	const n = callers * rounds
	want := map[string]float64{"select 200": n, "update 200": n, "invalid 200": n, "select 404": n, "select other": 2 * n}
	if got := collected(t, &c); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestCallsKeepNoRequestAlive holds that the text of a request, which its operation
// is a part of, is not what is kept as the operation's name.
func TestCallsKeepNoRequestAlive(t *testing.T) {
	line := strings.Clone("GET /select?p=notes&c=1.1.1/1.1.1/1.1.1 HTTP/1.1")
	op := wire.Op(line[len("GET /"):][:len(wire.Select)])
	var c calls
	for range 2 {
		if known := c.count(op, 200); known != op || unsafe.StringData(string(known)) == unsafe.StringData(string(op)) {
			t.Errorf("the operation is known as %q, or is the request's own text", known)
		}
	}
}

func TestCountingAKnownCallAllocatesNothing(t *testing.T) {
	var c calls
	c.count(wire.Select, 200)
	c.count(wire.Update, 200)
	if n := testing.AllocsPerRun(100, func() { c.count(wire.Select, 200) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
