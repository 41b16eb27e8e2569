package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// OwnersPath is where the edge keeps the ids of data directories.
func (e *Edge) OwnersPath() string { return filepath.Join(e.dir, "tenants.owners.jsonl") }

// KnowsOwners waits until the edge has recorded the tenants' data directories,
// which it does once their workers serve.
func (e *Edge) KnowsOwners(tenants ...string) {
	e.t.Helper()
	Eventually(e.t, "the data directories are recorded", func() error {
		text, err := os.ReadFile(e.OwnersPath())
		for _, tenant := range tenants {
			if err == nil && !strings.Contains(string(text), fmt.Sprintf(`{"tenant":%q,"id":"`, tenant)) {
				err = fmt.Errorf("%s is not in %q", tenant, text)
			}
		}
		return err
	})
}

// refusedHealth is what health says of directories that are not taken.
type refusedHealth struct {
	Status  string
	Refused map[string]string
}

// A data directory that was emptied, or whose disk is not mounted, is refused,
// also by an edge that has just started, until it is back; or until a person says
// that it is right as it is.
func TestEmptiedDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	const at = "p=notes&c=1.1.1/1.1.1/1.1.1"
	e := Start(t, Setup{Plain: true})
	for _, tenant := range []string{"alpha", "beta"} {
		e.Want("tok-"+tenant, "POST", "/update?"+at, tenant, 200, fmt.Sprintf("Updated %d bytes", len(tenant)))
	}
	e.KnowsOwners("alpha", "beta")
	dir := e.Tenant("alpha").DataDir
	aside := dir + ".unmounted"
	e.Quit()
	must(t, os.Rename(dir, aside))
	must(t, os.Mkdir(dir, 0o700))
	e.Boot()

	for _, method := range []string{"GET", "POST"} {
		if reply := e.Do("tok-alpha", method, "/insert?s=x&"+at, ""); reply.Status != 503 || reply.Header.Get("Retry-After") == "" || strings.Contains(reply.Body, "/") {
			t.Errorf("%s is answered %d %q", method, reply.Status, reply.Body)
		}
	}
	e.Want("tok-beta", "GET", "/select?"+at, "", 200, "beta")
	var h refusedHealth
	e.Admin("GET", "health", "", 200, &h)
	if h.Status != "degraded" || len(h.Refused) != 1 || !strings.Contains(h.Refused["alpha"], "is its disk mounted") {
		t.Errorf("health is %+v", h)
	}
	if !strings.Contains(e.Log(), "the worker did not find the tenant's data") {
		t.Error("the log does not say why")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the refused directory holds %v, %v", entries, err)
	}

	must(t, os.Remove(dir))
	must(t, os.Rename(aside, dir))
	e.Admin("POST", "workers/alpha/restart", "", 200, nil)
	e.Want("tok-alpha", "GET", "/select?"+at, "", 200, "alpha")
	h = refusedHealth{}
	e.Admin("GET", "health", "", 200, &h)
	if h.Status != "ok" || len(h.Refused) != 0 {
		t.Errorf("afterwards health is %+v", h)
	}

	// Restored without .sq, on purpose.
	e.Admin("POST", "workers/alpha/park", "", 200, nil)
	must(t, os.RemoveAll(filepath.Join(dir, ".sq")))
	if reply := e.Do("tok-alpha", "GET", "/select?"+at, ""); reply.Status != 503 {
		t.Errorf("without .sq: %d %q", reply.Status, reply.Body)
	}
	e.Admin("POST", "tenants/nobody/adopt", "", 404, nil)
	e.Admin("GET", "tenants/alpha/adopt", "", 405, nil)
	e.Admin("POST", "tenants/alpha/adopt", "", 200, nil)
	e.Admin("POST", "workers/alpha/restart", "", 200, nil)
	e.Want("tok-alpha", "GET", "/select?"+at, "", 200, "alpha")
	e.KnowsOwners("alpha")
}

// A tenant that was removed is forgotten, and another of its name begins anew,
// however it was removed.
func TestRemovedTenantIsForgotten(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	for _, tenant := range []string{"alpha", "beta"} {
		e.Want("tok-"+tenant, "GET", "/toc?p=notes", "", 200, "")
	}
	e.KnowsOwners("alpha", "beta")
	id := func() (id string) {
		text, err := os.ReadFile(e.OwnersPath())
		must(t, err)
		for line := range strings.Lines(string(text)) {
			var entry struct{ Tenant, ID string }
			must(t, json.Unmarshal([]byte(line), &entry))
			if entry.Tenant == "alpha" {
				id = entry.ID
			}
		}
		return id
	}
	gone := func() error {
		if id := id(); id != "" {
			return fmt.Errorf("alpha has %s", id)
		}
		return nil
	}
	first := id()

	// By the admin API.
	e.Admin("DELETE", "tenants/alpha", "", 200, nil)
	must(t, gone())
	var added Tenant
	e.Admin("POST", "tenants/add", `{"tenant_id": "alpha"}`, 200, &added)
	e.Want(added.Key, "GET", "/toc?p=notes", "", 200, "")
	e.KnowsOwners("alpha")
	if again := id(); again == first || again == "" {
		t.Errorf("the new tenant's directory has the id %q, the old one's %q", again, first)
	}

	// By hand.
	e.WriteTenants(e.Tenant("beta"))
	Eventually(t, "the tenant is forgotten", gone)

	// While no edge runs.
	e.WriteTenants(e.Tenant("alpha"), e.Tenant("beta"))
	Eventually(t, "the tenant is served again", func() error {
		if reply := e.Do("tok-alpha", "GET", "/toc?p=notes", ""); reply.Status != 200 {
			return fmt.Errorf("%d %s", reply.Status, reply.Body)
		}
		return nil
	})
	Eventually(t, "it is known again", func() error {
		if gone() == nil {
			return fmt.Errorf("alpha is not known")
		}
		return nil
	})
	e.Quit()
	e.WriteTenants(e.Tenant("beta"))
	e.Boot()
	must(t, gone())
}
