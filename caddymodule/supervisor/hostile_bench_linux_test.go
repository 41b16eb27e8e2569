package supervisor

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

// BenchmarkNeighbour prints how much longer a neighbour's requests take, at
// their 99th percentile, while a hostile worker burns processor, memory and
// disk: in turns in one run, since the machine itself changes.
func BenchmarkNeighbour(b *testing.B) {
	worker, err := buildWorker()
	if err != nil {
		b.Fatal(err)
	}
	neighbours, err := New(Config{Worker: worker, RunDir: mustRunDir(b), Logger: zap.NewNop()})
	if err != nil {
		b.Fatal(err)
	}
	hostiles, err := New(Config{Worker: mustBuildHostile(b), RunDir: mustRunDir(b), Logger: zap.NewNop(), Sandbox: wire.SandboxDefault})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		neighbours.Close(context.Background())
		hostiles.Close(context.Background())
	})
	spec := Spec{Tenant: "acme", DataDir: b.TempDir()}
	hostile := Spec{Tenant: "hostile", DataDir: b.TempDir()}
	ask := func(s *Supervisor, spec Spec, path string) {
		if _, err := do(context.Background(), s, spec, request(http.MethodGet, path, "")); err != nil {
			b.Fatal(err)
		}
	}
	ask(neighbours, spec, "/version?c=acme")
	// Long enough that the moment in which the hostile worker is found out is less
	// than one in a hundred.
	const turn = 15 * time.Second
	var calm, burning []float64 // milliseconds
	measure := func(into *[]float64) {
		for stop := time.Now().Add(turn); time.Now().Before(stop); {
			began := time.Now()
			ask(neighbours, spec, "/version?c=acme")
			*into = append(*into, time.Since(began).Seconds()*1e3)
		}
	}
	for b.Loop() {
		measure(&calm)
		ask(hostiles, hostile, "/burn")
		measure(&burning)
		if err := hostiles.Stop(context.Background(), "hostile"); err != nil {
			b.Fatal(err)
		}
	}
	p99 := func(v []float64) float64 {
		slices.Sort(v)
		return v[len(v)*99/100]
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(p99(calm), "ms-p99/calm")
	b.ReportMetric(p99(burning), "ms-p99/burning")
	b.ReportMetric(p99(burning)/p99(calm), "ratio")
}
