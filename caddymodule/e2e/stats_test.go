package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/sqedge/sqedge/shared/phext"
)

func TestStatsEqualARecount(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	alpha := e.Tenant("alpha")
	odyssey, err := os.ReadFile("../../shared/phext/testdata/the-odyssey.phext")
	must(t, err)
	scrollsOf, err := phext.Scrolls(odyssey)
	must(t, err)
	first := scrollsOf[0]
	// One document lies there, others are written.
	must(t, os.WriteFile(filepath.Join(alpha.DataDir, "odyssey.phext"), odyssey, 0o600))
	e.Want(alpha.Key, "POST", "/insert?p=far&c=2.1.1/1.1.1/1.1.300", "far away", 200, "Inserted 8 bytes")
	e.Want(alpha.Key, "POST", "/insert?p=far&c="+origin, "near", 200, "Inserted 4 bytes")
	e.Want(alpha.Key, "DELETE", "/delete?p=odyssey&c="+first.At.String(), "", 200, fmt.Sprintf("Removed %d bytes", len(first.Text)))
	e.Want(alpha.Key, "POST", "/update?p=empty&c="+origin, "x", 200, "Updated 1 bytes")
	e.Want(alpha.Key, "DELETE", "/delete?p=empty&c="+origin, "", 200, "Removed 1 bytes")

	recount := func() (bytes, scrolls int64, documents int) {
		var list []struct {
			Name           string
			Bytes, Scrolls int64
		}
		got := e.Do(alpha.Key, "GET", "/api/v2/documents", "", "Accept: application/json")
		must(t, json.Unmarshal([]byte(got.Body), &list))
		for _, d := range list {
			text := []byte(e.Do(alpha.Key, "GET", "/api/v2/documents/"+d.Name, "").Body)
			parsed, err := phext.Scrolls(text)
			must(t, err)
			if d.Bytes != int64(len(text)) || d.Scrolls != int64(len(parsed)) {
				t.Errorf("documents says %+v, and it has %d bytes and %d scrolls", d, len(text), len(parsed))
			}
			bytes += int64(len(text))
			scrolls += int64(len(parsed))
		}
		return bytes, scrolls, len(list)
	}
	bytes, scrolls, documents := recount()
	stats := e.Stats("alpha")
	if stats.StorageBytes != bytes || stats.Scrolls != scrolls || stats.Documents != documents {
		t.Errorf("stats says %+v, a recount %d bytes, %d scrolls, %d documents", stats, bytes, scrolls, documents)
	}
	if stats.StorageMB < float64(bytes)/(1<<20)-0.001 || stats.StorageMB > float64(bytes)/(1<<20)+0.001 ||
		stats.QuotaMB != 100 || stats.QuotaUsed < stats.StorageMB/100-0.0001 || stats.QuotaUsed > stats.StorageMB/100+0.0001 {
		t.Errorf("stats: %+v", stats)
	}
	if m := e.Metric(`sq_storage_bytes{tenant="alpha"}`); m != float64(bytes) {
		t.Errorf("the metric says %v bytes, want %d", m, bytes)
	}
	e.Quit()
	if disk := StoredBytes(t, alpha.DataDir); disk != bytes {
		t.Errorf("the files hold %d bytes, stats said %d", disk, bytes)
	}
	e.Boot()
	if m := e.Metric(`sq_storage_bytes{tenant="alpha"}`); m != float64(bytes) {
		t.Errorf("the metric of a sleeping tenant says %v bytes, want %d", m, bytes)
	}
	if again := e.Stats("alpha"); again.StorageBytes != bytes || again.Scrolls != scrolls || again.Documents != documents {
		t.Errorf("after a restart stats says %+v", again)
	}
}

func TestStatsOfRunningSleepingAndDisabledTenants(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	alpha, beta, gamma := e.Tenant("alpha"), e.Tenant("beta"), e.Tenant("gamma")
	gamma.Enabled = false
	must(t, os.Mkdir(gamma.DataDir, 0o700))
	must(t, os.WriteFile(filepath.Join(beta.DataDir, "notes.phext"), []byte("sleeping"), 0o600))
	must(t, os.WriteFile(filepath.Join(gamma.DataDir, "notes.phext"), []byte("disabled"), 0o600))
	e.WriteTenants(alpha, beta, gamma)
	e.AwaitStatus(gamma.Key, 403)

	before := time.Now().UTC().Truncate(time.Second)
	e.Want(alpha.Key, "POST", "/insert?c="+origin, "running", 200, "Inserted 7 bytes")
	for range 2 {
		if got := e.Do(alpha.Key, "GET", "/select?c=0", ""); got.Status != 400 {
			t.Errorf("select of no coordinate: %d", got.Status)
		}
	}
	stats := e.Stats("alpha")
	if stats.Worker.State != "ready" || stats.Worker.PID != e.Worker("alpha") || stats.Worker.Starts != 1 || stats.Worker.Uptime <= 0 || stats.Worker.Memory <= 0 {
		t.Errorf("running: %+v", stats)
	}
	active, err := time.Parse(time.RFC3339, stats.LastActive)
	if stats.Total != 3 || stats.Today != 3 || err != nil || active.Before(before) || active.After(time.Now()) {
		t.Errorf("running: %+v, %v; want 3 calls, refused ones too", stats, err)
	}

	stats = e.Stats("beta") // which wakes its worker
	if stats.StorageBytes != 8 || stats.Documents != 1 || stats.Scrolls != 1 || stats.Total != 0 || stats.LastActive != "" || !stats.Enabled {
		t.Errorf("sleeping: %+v", stats)
	}
	stats = e.Stats("gamma")
	if stats.StorageBytes != 8 || stats.Documents != 1 || stats.Enabled {
		t.Errorf("disabled: %+v", stats)
	}
	if left := e.Workers()["gamma"]; len(left) > 0 {
		t.Errorf("a disabled tenant has the workers %v", left)
	}
	if got := e.Do(gamma.Key, "GET", "/version", ""); got.Status != 403 {
		t.Errorf("a disabled tenant is served: %d", got.Status)
	}
}

func TestCallCountersSurviveARestart(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	for range 7 {
		e.Want("tok-alpha", "GET", "/toc", "", 200, "")
	}
	before := e.Stats("alpha")
	e.Quit()
	e.Boot()
	e.Want("tok-alpha", "GET", "/toc", "", 200, "")
	after := e.Stats("alpha")
	// Today's calls start anew where midnight has just passed.
	if before.Total != 7 || after.Total != 8 || after.Today != 8 && after.LastActive[:10] == before.LastActive[:10] {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if beta := e.Stats("beta"); beta.Total != 0 {
		t.Errorf("beta: %+v", beta)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	for _, key := range []string{"", "tok-alpha", "wrong-key", adminKey} {
		if got := e.Do(key, "GET", "/healthz", ""); got.Status != 200 || got.Body != "ok\n" || got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("healthz: %d %q", got.Status, got.Body)
		}
	}
	if got := e.Do("", "POST", "/healthz", ""); got.Status != 405 || got.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("POST healthz: %d, Allow %q", got.Status, got.Header.Get("Allow"))
	}
	e.Want("tok-alpha", "GET", "/toc", "", 200, "")
	var health struct {
		Status string
		Config struct {
			Path     string
			LoadedAt time.Time `json:"loaded_at"`
			Tenants  int
		}
		Workers map[string]int
		Disk    struct {
			Path  string
			Total uint64 `json:"total_bytes"`
			Free  uint64 `json:"free_bytes"`
		}
		Uptime  float64 `json:"uptime_seconds"`
		Version string
	}
	e.Admin("GET", "health", "", 200, &health)
	if health.Status != "ok" || health.Config.Path != e.ConfigPath() || health.Config.Tenants != 2 || health.Config.LoadedAt.IsZero() ||
		health.Workers["ready"] != 1 || health.Disk.Path != e.DataRoot() || health.Disk.Total == 0 || health.Disk.Free == 0 || health.Disk.Free > health.Disk.Total ||
		health.Uptime <= 0 || health.Version != e.Do("tok-alpha", "GET", "/version", "").Body {
		t.Errorf("health: %+v", health)
	}
	must(t, os.RemoveAll(e.DataRoot()))
	if e.Admin("GET", "health", "", 200, &health); health.Status != "degraded" {
		t.Errorf("without its disk: %+v", health)
	}
}

// families returns the sq_ part of an exposition, and the names in it.
func families(exposition string) (text string, names []string) {
	var kept strings.Builder
	for line := range strings.Lines(exposition) {
		name := line
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name = rest
		} else if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name = rest
			if family, _, _ := strings.Cut(rest, " "); strings.HasPrefix(family, "sq_") {
				names = append(names, family)
			}
		}
		if strings.HasPrefix(name, "sq_") {
			kept.WriteString(line)
		}
	}
	return kept.String(), names
}

func TestMetricsPassTheLintAndAreThoseOfCaddysAdminEndpoint(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	for _, key := range []string{"tok-alpha", "tok-beta"} {
		e.Want(key, "POST", "/insert?c="+origin, "x", 200, "Inserted 1 bytes")
	}
	got := e.Do(adminKey, "GET", "/api/v2/metrics", "")
	text, names := families(got.Body)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", err, problems)
	}
	for _, name := range []string{
		"sq_storage_bytes", "sq_quota_bytes", "sq_tenants_active", "sq_api_calls_total", "sq_request_duration_seconds",
		"sq_worker_starts_total", "sq_worker_start_seconds", "sq_workers_running", "sq_auth_failures_total", "sq_misdirected_total",
		"sq_config_reload_failures_total", "sq_config_last_reload_success_timestamp_seconds", "sq_log_sync_seconds", "sq_checkpoint_seconds",
	} {
		if !slices.Contains(names, name) {
			t.Errorf("%s is missing", name)
		}
	}
	if syncs := e.Metric("sq_log_sync_seconds_count"); syncs < 2 {
		t.Errorf("%v syncs counted over two workers that wrote", syncs)
	}

	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(e.dir, "admin"))
	}}}
	resp, err := client.Get("http://127.0.0.1/metrics")
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if _, same := families(string(body)); !slices.Equal(same, names) {
		t.Errorf("Caddy's /metrics (%d) shows %v, want %v", resp.StatusCode, same, names)
	}
	if !strings.Contains(got.Body, "\ncaddy_") && !strings.Contains(got.Body, "\ngo_goroutines ") {
		t.Error("the admin API's metrics lack Caddy's own")
	}
	for _, line := range []string{`sq_storage_bytes{tenant="alpha"} 1`, `sq_workers_running 2`, `sq_misdirected_total 0`} {
		if !strings.Contains(string(body), "\n"+line+"\n") {
			t.Errorf("Caddy's /metrics lacks %q", line)
		}
	}
}

func TestMetricsGoOnAcrossReloadsAndWorkerRestarts(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	e.Want("tok-alpha", "POST", "/insert?c="+origin, "x", 200, "Inserted 1 bytes")
	syncs := e.Metric("sq_log_sync_seconds_count")
	e.Reload("# max_scroll 16MiB", "max_scroll 1MiB")
	e.KillWorkers()
	Eventually(t, "alpha is served again", func() error {
		_, err := e.Try("tok-alpha", "GET", "/toc", "")
		if err == nil && len(e.Workers()["alpha"]) == 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	if calls := e.Metric(`sq_api_calls_total{code="200",method="insert",tenant="alpha"}`); calls != 1 {
		t.Errorf("%v inserts counted, want 1", calls)
	}
	if again := e.Metric("sq_log_sync_seconds_count"); again < syncs || syncs < 1 {
		t.Errorf("the syncs counted fell from %v to %v", syncs, again)
	}
	if starts := e.Metric("sq_worker_starts_total"); starts != 2 {
		t.Errorf("%v starts counted, want 2", starts)
	}
}
