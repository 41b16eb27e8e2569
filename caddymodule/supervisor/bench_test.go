package supervisor

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

// BenchmarkRoundTrip compares a request through the supervisor with one over
// net/http's transport to the same process.
func BenchmarkRoundTrip(b *testing.B) {
	s := benchSupervisor(b, mustExecutable(b))
	spec := Spec{Tenant: "acme", DataDir: b.TempDir()}
	supervised := func() error {
		_, err := do(context.Background(), s, spec, &Request{Method: http.MethodGet, Target: "/who"})
		return err
	}
	if err := supervised(); err != nil {
		b.Fatal(err)
	}
	socket := s.tenant("acme").ready.Load().socket
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	transported := func() error {
		r, err := http.NewRequest(http.MethodGet, "http://sq/who", nil)
		if err != nil {
			return err
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return err
		}
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		return err
	}
	for _, way := range []struct {
		name string
		send func() error
	}{{"transport", transported}, {"supervisor", supervised}} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := way.send(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStart is a worker's whole life: start, one request, drain.
func BenchmarkStart(b *testing.B) {
	worker, err := buildWorker()
	if err != nil {
		b.Fatal(err)
	}
	s := benchSupervisor(b, worker)
	spec := Spec{Tenant: "acme", DataDir: b.TempDir()}
	for b.Loop() {
		if _, err := do(context.Background(), s, spec, request(http.MethodGet, "/version?c=acme", "")); err != nil {
			b.Fatal(err)
		}
		if err := s.Stop(context.Background(), "acme"); err != nil {
			b.Fatal(err)
		}
	}
}

func benchSupervisor(b *testing.B, worker string) *Supervisor {
	b.Helper()
	s, err := New(Config{Worker: worker, RunDir: mustRunDir(b), Logger: zap.NewNop()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// BenchmarkJail prints what the jail costs: the time from a worker's start to
// its first answer and its private memory, in turns with and without it.
func BenchmarkJail(b *testing.B) {
	worker, err := buildWorker()
	if err != nil {
		b.Fatal(err)
	}
	modes := []wire.Sandbox{wire.SandboxOff, wire.SandboxDefault}
	took := make(map[wire.Sandbox][]float64)    // milliseconds
	private := make(map[wire.Sandbox][]float64) // KiB
	supers := make(map[wire.Sandbox]*Supervisor)
	for _, mode := range modes {
		s, err := New(Config{Worker: worker, RunDir: mustRunDir(b), Logger: zap.NewNop(), Sandbox: mode})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close(context.Background()) })
		supers[mode] = s
	}
	spec := Spec{Tenant: "acme", DataDir: b.TempDir()}
	for b.Loop() {
		for _, mode := range modes {
			s := supers[mode]
			began := time.Now()
			if _, err := do(context.Background(), s, spec, request(http.MethodGet, "/version?c=acme", "")); err != nil {
				b.Fatal(err)
			}
			took[mode] = append(took[mode], time.Since(began).Seconds()*1e3)
			private[mode] = append(private[mode], privateKiB(b, s.Status("acme").PID))
			if err := s.Stop(context.Background(), "acme"); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of both, which says nothing
	for unit, values := range map[string]map[wire.Sandbox][]float64{"ms": took, "KiB": private} {
		free, jailed := median(values[wire.SandboxOff]), median(values[wire.SandboxDefault])
		b.ReportMetric(free, unit+"/free")
		b.ReportMetric(jailed, unit+"/jailed")
		b.ReportMetric(jailed/free, unit+"-ratio")
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// privateKiB returns the memory that a process shares with nobody.
func privateKiB(b *testing.B, pid int) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Skipf("skipped: a worker's memory cannot be read: %v", err)
	}
	var total float64
	for line := range strings.Lines(string(data)) {
		var kib float64
		if strings.HasPrefix(line, "Private_") {
			if _, err := fmt.Sscan(strings.Fields(line)[1], &kib); err != nil {
				b.Fatal(err)
			}
			total += kib
		}
	}
	return total
}
