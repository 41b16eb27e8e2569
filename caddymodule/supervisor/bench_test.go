package supervisor

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"go.uber.org/zap"
)

// BenchmarkRoundTrip compares a request through the supervisor with one over
// net/http's transport to the same process.
func BenchmarkRoundTrip(b *testing.B) {
	s := benchSupervisor(b, mustExecutable(b))
	spec := Spec{Tenant: "acme", DataDir: b.TempDir()}
	send := func(trip func(*http.Request) (*http.Response, error)) error {
		resp, err := trip(request(context.Background(), http.MethodGet, "http://sq/who", ""))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return err
	}
	supervised := func(r *http.Request) (*http.Response, error) { return s.RoundTrip(spec, r) }
	if err := send(supervised); err != nil {
		b.Fatal(err)
	}
	socket := s.tenant("acme").ready.Load().socket
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	for _, way := range []struct {
		name string
		trip func(*http.Request) (*http.Response, error)
	}{{"transport", transport.RoundTrip}, {"supervisor", supervised}} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := send(way.trip); err != nil {
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
		if _, err := do(s, spec, request(context.Background(), http.MethodGet, "/version?c=acme", "")); err != nil {
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
