package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The size of the metrics is that of the traffic: a tenant that nobody asked for
// is part of a sum, and joins those that have series with its first request.
func TestTenantsNeverActiveHaveNoSeries(t *testing.T) {
	e := Start(t, Setup{Plain: true, Tenants: []Tenant{{ID: "alpha"}, {ID: "beta"}, {ID: "gamma"}}})
	for id, text := range map[string]string{"beta": "four", "gamma": "seventeen"} {
		must(t, os.WriteFile(filepath.Join(e.Tenant(id).DataDir, "notes.phext"), []byte(text), 0o600))
	}
	want := func(series map[string]float64, without ...string) {
		t.Helper()
		for name, value := range series {
			if got := e.Metric(name); got != value {
				t.Errorf("%s is %v, want %v", name, got, value)
			}
		}
		text := e.Do(adminKey, "GET", "/api/v2/metrics", "").Body
		for _, tenant := range without {
			if strings.Contains(text, `"`+tenant+`"`) {
				t.Errorf("the metrics have series of %s, for which nobody asked:\n%s", tenant, text)
			}
		}
	}
	const quota = 100 << 20
	want(map[string]float64{
		`sq_storage_bytes{tenant="_others"}`: 4 + 9,
		`sq_quota_bytes{tenant="_others"}`:   3 * quota,
		`sq_tenants_active`:                  3,
	}, "alpha", "beta", "gamma")

	e.Want("tok-alpha", "POST", "/insert?c="+origin, "xx", 200, "Inserted 2 bytes")
	e.Want("tok-beta", "GET", "/select?p=notes&c="+origin, "", 200, "four")
	if got := e.Do("", "GET", "/select", ""); got.Status != 401 {
		t.Errorf("without a key: %d", got.Status)
	}
	want(map[string]float64{
		`sq_storage_bytes{tenant="alpha"}`:   2,
		`sq_storage_bytes{tenant="beta"}`:    4,
		`sq_storage_bytes{tenant="_others"}`: 9,
		`sq_quota_bytes{tenant="beta"}`:      quota,
		`sq_quota_bytes{tenant="_others"}`:   quota,
	}, "gamma")

	// It keeps them while it sleeps.
	e.Admin("POST", "workers/alpha/park", "", 200, nil)
	want(map[string]float64{`sq_storage_bytes{tenant="alpha"}`: 2, `sq_storage_bytes{tenant="_others"}`: 9}, "gamma")
}

// A change of tenants.json is no business of the workers of other tenants, nor of
// one that was disabled before.
func TestTenantsFileReloadTouchesNoOtherWorker(t *testing.T) {
	e := Start(t, Setup{Plain: true, Tenants: []Tenant{{ID: "alpha"}, {ID: "beta"}, {ID: "gamma"}}})
	alpha, beta, gamma := e.Tenant("alpha"), e.Tenant("beta"), e.Tenant("gamma")
	for _, tenant := range []Tenant{alpha, beta, gamma} {
		e.Want(tenant.Key, "POST", "/insert?c="+origin, "x", 200, "Inserted 1 bytes")
	}
	pid := e.Worker("alpha")
	gamma.Enabled = false
	for quota := 1; quota <= 5; quota++ {
		beta.QuotaMB = quota
		e.WriteTenants(alpha, beta, gamma)
		Eventually(t, "the change is in force", func() error {
			if got := e.Metric(`sq_quota_bytes{tenant="beta"}`); got != float64(quota<<20) {
				return fmt.Errorf("the quota is %v", got)
			}
			return nil
		})
	}
	Eventually(t, "the disabled tenant's worker is gone", func() error {
		if left := e.Workers()["gamma"]; len(left) > 0 {
			return fmt.Errorf("it has %v", left)
		}
		return nil
	})
	if now := e.Worker("alpha"); now != pid {
		t.Errorf("alpha's worker is process %d, was %d", now, pid)
	}
	for tenant, starts := range map[string]int{"alpha": 1, "beta": 1} {
		if got := e.Stats(tenant).Worker.Starts; got != starts {
			t.Errorf("%s's worker was started %d times, want %d", tenant, got, starts)
		}
	}
	if n := e.Metric(`sq_worker_transitions_total{from="ready",to="draining"}`); n != 1 {
		t.Errorf("%v workers were told to end, want gamma's alone", n)
	}
}
