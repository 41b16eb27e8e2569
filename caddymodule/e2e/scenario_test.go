package e2e

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

// The three scenarios that users run by hand.

func TestScenarioIsolation(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	for tenant, secret := range map[string]string{"alpha": "Secret A", "beta": "Secret B"} {
		form := "p=test&c=1.1.1/1.1.1/1.1.1&text=" + url.QueryEscape(secret)
		got := e.Do("tok-"+tenant, "POST", "/insert", form, "Content-Type: application/x-www-form-urlencoded")
		if got.Status != 200 || got.Body != "Inserted 8 bytes" {
			t.Fatalf("insert as %s: %d %q", tenant, got.Status, got.Body)
		}
	}
	e.Want("tok-alpha", "GET", "/load?p=test&c=1.1.1/1.1.1/1.1.1", "", 200, "Secret A")
	e.Want("tok-beta", "GET", "/load?p=test&c=1.1.1/1.1.1/1.1.1", "", 200, "Secret B")
}

func TestScenarioManagement(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	got := e.Do(adminKey, "POST", "/api/v2/admin/tenants/add", `{"tenant_id": "customer-001", "quota_mb": 500}`)
	if got.Status != 200 {
		t.Fatalf("add: %d %q", got.Status, got.Body)
	}
	var added Tenant
	must(t, json.Unmarshal([]byte(got.Body), &added))
	if added.ID != "customer-001" || !strings.HasPrefix(added.Key, "pmb-v1-") || added.QuotaMB != 500 || !added.Enabled || !strings.HasPrefix(added.DataDir, e.DataRoot()) {
		t.Fatalf("add answers %s", got.Body)
	}
	e.Want(added.Key, "POST", "/api/v2/insert?p=notes&c=1.1.1/1.1.1/1.1.1", "hello", 200, "Inserted 5 bytes")
	got = e.Do(adminKey, "GET", "/api/v2/admin/tenants/customer-001/stats", "")
	var stats struct {
		StorageBytes int64  `json:"storage_bytes"`
		QuotaMB      int64  `json:"quota_mb"`
		Documents    int    `json:"documents"`
		Scrolls      int    `json:"scrolls"`
		Total        int    `json:"api_calls_total"`
		Today        int    `json:"api_calls_today"`
		LastActive   string `json:"last_active"`
		Worker       struct {
			State  string `json:"state"`
			PID    int    `json:"pid"`
			Starts int    `json:"starts"`
		} `json:"worker"`
	}
	must(t, json.Unmarshal([]byte(got.Body), &stats))
	if got.Status != 200 || stats.StorageBytes != 5 || stats.QuotaMB != 500 || stats.Documents != 1 || stats.Scrolls != 1 || stats.Total != 1 || stats.Today != 1 ||
		stats.LastActive == "" || stats.Worker.State != "ready" || stats.Worker.Starts != 1 || !processAlive(stats.Worker.PID) {
		t.Errorf("stats answers %d %s", got.Status, got.Body)
	}
}

func TestScenarioMetrics(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	e.Want("tok-alpha", "POST", "/insert?p=notes&c=1.1.1/1.1.1/1.1.1", "hello", 200, "Inserted 5 bytes")
	e.Want("tok-alpha", "GET", "/select?p=notes&c=1.1.1/1.1.1/1.1.1", "", 200, "hello")
	e.Want("", "GET", "/select?p=notes&c=1.1.1/1.1.1/1.1.1", "", 401, "Unauthorized")
	got := e.Do(adminKey, "GET", "/api/v2/metrics", "")
	if got.Status != 200 {
		t.Fatalf("metrics: %d %q", got.Status, got.Body)
	}
	for _, line := range []string{
		`sq_storage_bytes{tenant="alpha"} 5`,
		`sq_storage_bytes{tenant="_others"} 0`,
		`sq_quota_bytes{tenant="alpha"} 1.048576e+08`,
		`sq_tenants_active 2`,
		`sq_api_calls_total{code="200",method="insert",tenant="alpha"} 1`,
		`sq_api_calls_total{code="200",method="select",tenant="alpha"} 1`,
		`sq_request_duration_seconds_count{method="select"} 1`,
		`sq_worker_starts_total 1`,
		`sq_worker_start_seconds_count 1`,
		`sq_workers_running 1`,
		`sq_auth_failures_total 1`,
		`sq_misdirected_total 0`,
		`sq_config_reload_failures_total 0`,
		`sq_config_last_reload_success_timestamp_seconds `,
		`sq_log_sync_seconds_count `,
		`sq_checkpoint_seconds_count `,
	} {
		if !strings.Contains(got.Body, "\n"+line) {
			t.Errorf("metrics lack %q", line)
		}
	}
}
