package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(recorder{}) }

// recorder is an event handler that appends the events' data to a file, as
// anyone's might.
type recorder struct {
	Path string `json:"path"`
}

func (recorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.record", New: func() caddy.Module { return new(recorder) }}
}

func (r *recorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&r.Path) {
		return d.ArgErr()
	}
	return nil
}

func (r *recorder) Handle(_ context.Context, e caddy.Event) error {
	line, err := json.Marshal(e.CloudEvent())
	if err != nil {
		return err
	}
	f, err := os.OpenFile(r.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}

// record prepares an edge whose worker events are recorded, and returns where.
func record(t *testing.T) (e *Edge, path string) {
	t.Helper()
	e = Prepare(t, Setup{Plain: true}) // over TLS Caddy itself may emit events while the events app starts, which is a race
	path = filepath.Join(e.dir, "events")
	e.edit("\tsq {\n", "\tevents {\n\t\ton sq_worker_state record "+path+"\n\t}\n\tsq {\n")
	e.Boot()
	return e, path
}

// Workers' states go on changing while configs start; the race detector looks on.
func TestEventsDuringReloads(t *testing.T) {
	t.Parallel()
	e, path := record(t)
	var stopped atomic.Bool
	var resets atomic.Int64
	var load sync.WaitGroup
	load.Go(func() {
		for !stopped.Load() {
			// Nobody holds the listening socket, so that a reload may reset what comes
			// in the moment of its end; TestRestartOfTheEdgeRefusesNobody is where one does.
			got, err := e.Try(adminKey, "POST", "/api/v2/admin/workers/alpha/restart", "", "Connection: close")
			if errors.Is(err, syscall.ECONNRESET) {
				resets.Add(1)
				continue
			}
			if err != nil || got.Status != 200 {
				t.Errorf("restart: %v, %d %q", err, got.Status, got.Body)
			}
		}
	})
	told := func() int {
		data, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.Count(string(data), "\n")
	}
	for range 5 {
		before := told()
		Eventually(t, "more events are told", func() error {
			if n := told(); n < before+4 {
				return fmt.Errorf("%d, were %d", n, before)
			}
			return nil
		})
		e.ReloadForced()
	}
	stopped.Store(true)
	load.Wait()
	t.Logf("%d requests were reset", resets.Load())
}

// An events handler hears of every change of a worker's state, before and after
// a reload, and nobody's key is in it.
func TestWorkerStatesAreEvents(t *testing.T) {
	t.Parallel()
	e, told := record(t)
	want := func(want ...string) {
		t.Helper()
		Eventually(t, "the events are told", func() error {
			data, _ := os.ReadFile(told)
			var got []string
			for line := range strings.Lines(string(data)) {
				var event struct {
					Source, Type string
					Data         struct{ Tenant, From, To, Reason string }
				}
				must(t, json.Unmarshal([]byte(line), &event))
				if event.Source != "sq" || event.Type != "sq_worker_state" {
					t.Errorf("event %s", line)
				}
				got = append(got, fmt.Sprintf("%s %s %s: %s", event.Data.Tenant, event.Data.From, event.Data.To, event.Data.Reason))
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				return fmt.Errorf("events %q, want %q", got, want)
			}
			return nil
		})
	}
	e.Want("tok-alpha", "GET", "/toc", "", 200, "")
	story := []string{"alpha asleep starting: request", "alpha starting ready: started"}
	want(story...)
	e.Reload("# max_scroll 16MiB", "max_scroll 1KiB")
	e.WriteTenants(e.Tenant("beta"))
	e.AwaitStatus("tok-alpha", 401)
	want(append(story, "alpha ready draining: stop", "alpha draining asleep: drained")...)
	if n := e.Metric(`sq_worker_transitions_total{from="draining",to="asleep"}`); n != 1 {
		t.Errorf("%v transitions to asleep are counted, want 1", n)
	}
	if strings.Contains(e.Log(), "tok-alpha") {
		t.Error("a key is in the log")
	}
}
