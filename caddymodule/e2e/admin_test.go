package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Add adds a tenant through the admin API.
func (e *Edge) Add(id string) Tenant {
	e.t.Helper()
	var tenant Tenant
	e.Admin("POST", "tenants/add", `{"tenant_id": "`+id+`", "quota_mb": 5}`, 200, &tenant)
	return tenant
}

func TestAdminEndpointsRefuseWhoeverIsNotTheAdmin(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	before, err := os.ReadFile(e.ConfigPath())
	must(t, err)
	for _, endpoint := range []struct{ method, path, body string }{
		{"GET", "/api/v2/admin/tenants", ""},
		{"POST", "/api/v2/admin/tenants/add", `{"tenant_id": "intruder"}`},
		{"DELETE", "/api/v2/admin/tenants/beta", ""},
		{"GET", "/api/v2/admin/tenants/beta/stats", ""},
		{"GET", "/api/v2/admin/health", ""},
		{"GET", "/api/v2/admin/no-such-endpoint", ""},
		{"GET", "/api/v2/metrics", ""},
	} {
		failures := e.Metric("sq_auth_failures_total")
		for _, tt := range []struct{ name, key, header string }{
			{"no key", "", ""},
			{"a tenant's key", "tok-alpha", ""},
			{"the key of the tenant it is about", "tok-beta", ""},
			{"an unknown key", "pmb-admin-00000000000000000000000000000000", ""},
			{"the admin key and another", adminKey, "X-SQ-API-Key: tok-alpha"},
			{"the admin key in the query alone", "", "X-Other: x"},
		} {
			path := endpoint.path
			if strings.Contains(tt.name, "query") {
				path += "?key=" + adminKey
			}
			headers := []string{}
			if tt.header != "" {
				headers = append(headers, tt.header)
			}
			got := e.Do(tt.key, endpoint.method, path, endpoint.body, headers...)
			if got.Status != 403 || got.Body != "this needs the admin key" {
				t.Errorf("%s %s with %s: %d %q, want 403", endpoint.method, endpoint.path, tt.name, got.Status, clip(got.Body))
			}
		}
		if n := e.Metric("sq_auth_failures_total"); n != failures+6 {
			t.Errorf("%s: %v failures counted, want 6", endpoint.path, n-failures)
		}
	}
	after, err := os.ReadFile(e.ConfigPath())
	must(t, err)
	if string(after) != string(before) || len(e.Workers()) > 0 {
		t.Errorf("something changed: workers %v, file %s", e.Workers(), after)
	}
	// Keys work in either header.
	if got := e.Do("", "GET", "/api/v2/admin/tenants", "", "X-SQ-API-Key: "+adminKey); got.Status != 200 {
		t.Errorf("the admin key in X-SQ-API-Key: %d", got.Status)
	}
	if got := e.Do(adminKey, "GET", "/toc", ""); got.Status != 403 {
		t.Errorf("the admin key opens documents: %d %q", got.Status, got.Body)
	}
}

func TestAdminListShowsTenantsWithoutKeys(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	beta := e.Tenant("beta")
	beta.Enabled = false
	e.WriteTenants(e.Tenant("alpha"), beta)
	e.AwaitStatus(beta.Key, 403)
	got := e.Do(adminKey, "GET", "/api/v2/admin/tenants", "")
	var list struct{ Tenants []map[string]any }
	must(t, json.Unmarshal([]byte(got.Body), &list))
	want := []map[string]any{
		{"id": "alpha", "data_dir": e.Tenant("alpha").DataDir, "quota_mb": 100.0, "enabled": true},
		{"id": "beta", "data_dir": beta.DataDir, "quota_mb": 100.0, "enabled": false},
	}
	if !slices.EqualFunc(list.Tenants, want, maps.Equal) {
		t.Errorf("the list is %s", got.Body)
	}
	if strings.Contains(got.Body, "tok-") || strings.Contains(got.Body, "pmb-") {
		t.Errorf("the list holds a key: %s", got.Body)
	}
}

func TestAddRefusesWhatIsInvalidAndChangesNothing(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	must(t, os.Mkdir(filepath.Join(e.DataRoot(), "leftover"), 0o700))
	before, err := os.ReadFile(e.ConfigPath())
	must(t, err)
	for _, tt := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"no body", "", 400, "not the JSON"},
		{"no JSON", "tenant_id=x", 400, "not the JSON"},
		{"an array", "[]", 400, "not the JSON"},
		{"null", "null", 400, "tenant_id: tenant id is empty"},
		{"two values", `{"tenant_id": "x"} {"tenant_id": "y"}`, 400, "more than one JSON value"},
		{"unknown field", `{"tenant_id": "x", "data_dir": "/etc"}`, 400, `unknown field "data_dir"`},
		{"id of another type", `{"tenant_id": 7}`, 400, "not the JSON"},
		{"no id", `{"quota_mb": 5}`, 400, "tenant id is empty"},
		{"capital letters", `{"tenant_id": "Acme"}`, 400, "character other than"},
		{"a path", `{"tenant_id": "../beta"}`, 400, "character other than"},
		{"a dot", `{"tenant_id": ".archive"}`, 400, "character other than"},
		{"a slash", `{"tenant_id": "a/b"}`, 400, "character other than"},
		{"NUL", `{"tenant_id": "a\u0000b"}`, 400, "character other than"},
		{"not ASCII", `{"tenant_id": "日"}`, 400, "character other than"},
		{"a hyphen first", `{"tenant_id": "-a"}`, 400, "begins with a hyphen"},
		{"64 bytes", `{"tenant_id": "` + strings.Repeat("a", 64) + `"}`, 400, "at most 63"},
		{"negative quota", `{"tenant_id": "x", "quota_mb": -1}`, 400, "quota_mb"},
		{"fractional quota", `{"tenant_id": "x", "quota_mb": 1.5}`, 400, "not the JSON"},
		{"quota beyond 1 TiB", `{"tenant_id": "x", "quota_mb": 1048577}`, 400, "quota_mb"},
		{"quota beyond int64", `{"tenant_id": "x", "quota_mb": 9223372036854775808}`, 400, "not the JSON"},
		{"too large", `{"tenant_id": "` + strings.Repeat("a", 70_000) + `"}`, 413, "larger than 65536"},
		{"an id that exists", `{"tenant_id": "alpha"}`, 409, "exists"},
		{"a directory that exists", `{"tenant_id": "leftover"}`, 409, "exists"},
	} {
		got := e.Do(adminKey, "POST", "/api/v2/admin/tenants/add", tt.body)
		if got.Status != tt.status || !strings.Contains(got.Body, tt.want) || strings.Contains(got.Body, e.dir) {
			t.Errorf("%s: %d %q, want %d with %q", tt.name, got.Status, clip(got.Body), tt.status, tt.want)
		}
	}
	for _, method := range []string{"GET", "PUT", "PATCH"} {
		got := e.Do(adminKey, method, "/api/v2/admin/tenants/add", `{"tenant_id": "x"}`)
		if got.Status != 405 || got.Header.Get("Allow") != "POST, OPTIONS" {
			t.Errorf("%s: %d, Allow %q, want 405", method, got.Status, got.Header.Get("Allow"))
		}
	}
	after, err := os.ReadFile(e.ConfigPath())
	must(t, err)
	if string(after) != string(before) {
		t.Errorf("the file was changed:\n%s", after)
	}
	for _, name := range []string{"x", "y", "a"} {
		if _, err := os.Lstat(filepath.Join(e.DataRoot(), name)); err == nil {
			t.Errorf("%s was created", name)
		}
	}
}

func TestAddIsInForceWhenItReturns(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	tenant := e.Add("customer-001")
	e.Want(tenant.Key, "POST", "/insert?c="+origin, "hello", 200, "Inserted 5 bytes")
	if !regexp.MustCompile(`^pmb-v1-[0-9a-f]{32}$`).MatchString(tenant.Key) || tenant.DataDir != filepath.Join(e.DataRoot(), "customer-001") {
		t.Errorf("added %+v", tenant)
	}
	info, err := os.Stat(tenant.DataDir)
	must(t, err)
	if info.Mode() != os.ModeDir|0o700 {
		t.Errorf("the data directory is %v", info.Mode())
	}
	for _, tt := range []struct {
		body string
		want int
	}{{`{"tenant_id": "no-quota", "quota_mb": 0}`, 0}, {`{"tenant_id": "default-quota"}`, 1000}} {
		var a Tenant
		if e.Admin("POST", "tenants/add", tt.body, 200, &a); a.QuotaMB != tt.want {
			t.Errorf("%s: quota %d, want %d", tt.body, a.QuotaMB, tt.want)
		}
	}
	e.Quit()
	e.Boot()
	e.Want(tenant.Key, "GET", "/select?c="+origin, "", 200, "hello")
}

func TestHundredConcurrentAddsAllWork(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	var adds sync.WaitGroup
	var mu sync.Mutex
	tenants := make(map[string]string) // key by id
	conflicts := 0
	for i := range 100 {
		adds.Go(func() {
			// Each id is asked for twice; one of the two must be refused.
			id := fmt.Sprintf("many-%d", i/2)
			got, err := e.Try(adminKey, "POST", "/api/v2/admin/tenants/add", `{"tenant_id": "`+id+`"}`)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && got.Status == 409:
				conflicts++
			case err == nil && got.Status == 200:
				var a Tenant
				if err := json.Unmarshal([]byte(got.Body), &a); err != nil || tenants[id] != "" {
					t.Errorf("%s: %v, added twice: %v", id, err, tenants[id] != "")
				}
				tenants[id] = a.Key
			default:
				t.Errorf("%s: %v, %d %q", id, err, got.Status, got.Body)
			}
		})
	}
	adds.Wait()
	if len(tenants) != 50 || conflicts != 50 {
		t.Fatalf("%d tenants were added and %d refused, want 50 and 50", len(tenants), conflicts)
	}
	for id, key := range tenants {
		// Refused once the key is accepted, and without a worker.
		if got := e.Do(key, "GET", "/select", ""); got.Status != 400 {
			t.Errorf("%s: %d %q", id, got.Status, got.Body)
		}
	}
	if n := e.Metric("sq_tenants_active"); n != 52 {
		t.Errorf("%v tenants active, want 52", n)
	}
}

func TestDeleteArchivesAndKillsTheKeyBeforeItReturns(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	tenant := e.Add("gone")
	e.Want(tenant.Key, "POST", "/insert?p=notes&c="+origin, "kept in the archive", 200, "Inserted 19 bytes")
	pid := e.Worker("gone")
	var removed struct {
		ID         string `json:"id"`
		ArchivedTo string `json:"archived_to"`
	}
	e.Admin("DELETE", "tenants/gone", "", 200, &removed)
	e.Want(tenant.Key, "GET", "/version", "", 401, "Unauthorized")
	if !regexp.MustCompile(`^` + regexp.QuoteMeta(e.DataRoot()) + `/\.archive/gone-\d{8}T\d{6}\.\d{3}Z$`).MatchString(removed.ArchivedTo) {
		t.Errorf("archived to %q", removed.ArchivedTo)
	}
	if got := OnDisk(t, removed.ArchivedTo)["notes"][origin]; got != "kept in the archive" {
		t.Errorf("the archive holds %q", got)
	}
	if _, err := os.Lstat(tenant.DataDir); err == nil || processAlive(pid) {
		t.Error("the data directory or the worker is still there")
	}
	e.Admin("DELETE", "tenants/gone", "", 404, nil)
	e.Admin("DELETE", "tenants/never-there", "", 404, nil)
	e.Admin("GET", "tenants/gone/stats", "", 404, nil)
	if got := e.Do(adminKey, "GET", "/api/v2/metrics", ""); strings.Contains(got.Body, `tenant="gone"`) {
		t.Error("the metrics still show it")
	}

	again := e.Add("gone")
	if again.Key == tenant.Key {
		t.Error("the old key was given out again")
	}
	e.Want(again.Key, "GET", "/select?p=notes&c="+origin, "", 200, "")
	e.Want(tenant.Key, "GET", "/version", "", 401, "Unauthorized")
	if stats := e.Stats("gone"); stats.Total != 1 || stats.StorageBytes != 0 {
		t.Errorf("the new tenant has the old one's numbers: %+v", stats)
	}
	e.Admin("DELETE", "tenants/gone", "", 200, nil)
	if archived, err := filepath.Glob(filepath.Join(e.DataRoot(), ".archive/gone-*")); err != nil || len(archived) != 2 {
		t.Errorf("the archive holds %v, %v, want two", archived, err)
	}
}

func TestTenantNamedAddCanBeDeleted(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	e.Admin("DELETE", "tenants/add", "", 404, nil)
	tenant := e.Add("add")
	e.Admin("GET", "tenants/add/stats", "", 200, nil)
	e.Admin("DELETE", "tenants/add", "", 200, nil)
	e.Want(tenant.Key, "GET", "/version", "", 401, "Unauthorized")
}

func TestDeleteWhileRequestsRunLosesNoAcknowledgedWrite(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	for range 5 {
		tenant := e.Add("busy")
		w := NewWriters(e, tenant.Key, 8)
		w.Run()
		w.AwaitMore(50)
		var removed struct {
			ArchivedTo string `json:"archived_to"`
		}
		e.Admin("DELETE", "tenants/busy", "", 200, &removed)
		if left := e.Workers()["busy"]; len(left) > 0 {
			t.Errorf("a worker is left: %v", left)
		}
		w.Halt()
		for _, other := range w.Unexpected() {
			// It knocks on with a dead key until that is limited.
			if !strings.HasPrefix(other, "401 ") && !strings.HasPrefix(other, "429 \"failed_keys: ") {
				t.Errorf("a writer was answered %s", other)
			}
		}
		w.VerifyDisk(removed.ArchivedTo)
		if _, err := os.Lstat(tenant.DataDir); err == nil {
			t.Error("the data directory came back")
		}
	}
}
