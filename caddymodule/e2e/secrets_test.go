package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sqedge/sqedge/shared/wire"
)

// watched is an edge of which every answer is kept.
type watched struct {
	*Edge
	keys    map[string]string // by what each is
	mu      sync.Mutex
	answers []kept
}

type kept struct {
	what, text string
	toTenant   bool
}

// ask sends a request and keeps the answer. As a tenant's it may hold no path. It
// may be called from any goroutine.
func (w *watched) ask(toTenant bool, method, path, body string, headers ...string) Reply {
	w.t.Helper()
	reply, err := w.Try("", method, path, body, headers...)
	if err != nil {
		w.t.Error(err)
	}
	w.keep(toTenant, method+" "+path, reply)
	return reply
}

func (w *watched) keep(toTenant bool, what string, reply Reply) {
	var text strings.Builder
	reply.Header.Write(&text)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers = append(w.answers, kept{what, text.String() + reply.Body, toTenant})
}

// TestKeysAreNowhereButInTenantsJSON puts keys, good and bad, wherever a client
// may put them, makes things go wrong, and then searches every byte the system
// wrote for each of the keys.
func TestKeysAreNowhereButInTenantsJSON(t *testing.T) {
	t.Parallel()
	w := watch(t, Setup{})
	w.useEveryOperation()
	w.misplaceKeys(t)
	w.administrate(t)
	w.breakThings(t)
	w.breakTenantsFile()
	w.search(t)
}

func TestKeysAreNowhereButInTenantsJSONWithoutTLS(t *testing.T) {
	t.Parallel()
	w := watch(t, Setup{Plain: true})
	w.useEveryOperation()
	w.misplaceKeys(t)
	w.administrate(t)
	w.search(t)
}

func watch(t *testing.T, setup Setup) *watched {
	t.Helper()
	w := &watched{Edge: Start(t, setup), keys: map[string]string{"admin": adminKey}}
	for i, name := range []string{"alpha", "beta", "rotated", "unknown", "gone"} {
		w.keys[name] = fmt.Sprintf("pmb-v1-%032x", 0x5eedfeed0000+i)
	}
	w.setTenants("alpha", "beta", "gone")
	w.AwaitStatus(w.keys["beta"], 200)
	return w
}

func (w *watched) search(t *testing.T) {
	w.searchProcesses(t)
	w.Quit()
	w.searchFiles(t)
	w.searchAnswers(t)
}

// setTenants puts tenants with the keys of their names in force.
func (w *watched) setTenants(names ...string) {
	w.t.Helper()
	var list []Tenant
	for _, name := range names {
		id := name
		if name == "rotated" {
			id = "alpha"
		}
		tenant := w.Tenant(id)
		tenant.Key = w.keys[name]
		must(w.t, os.MkdirAll(tenant.DataDir, 0o700))
		list = append(list, tenant)
	}
	w.WriteTenants(list...)
}

// useEveryOperation presents every key in every way that counts, all keys at the
// same time: the refusal of a wrong one is held back after so many.
func (w *watched) useEveryOperation() {
	var all sync.WaitGroup
	defer all.Wait()
	for _, key := range w.keys {
		for _, headers := range [][]string{
			{"Authorization: Bearer " + key}, {"Authorization: " + key}, {"authorization: bEaReR   " + key + " "}, {"X-SQ-API-Key: " + key}, {"x-sq-api-key: " + key},
			{"Authorization: Bearer " + key, "X-SQ-API-Key: " + key}, {"Authorization: Bearer " + key, "X-SQ-API-Key: " + w.keys["unknown"]},
			{"Authorization: Bearer " + key, "Accept: application/json"}, {"Authorization: Basic " + key}, {"Authorization: Bearer " + key + "x"},
			{"Authorization: Bearer " + key, "Accept: text/plain", "X-SQ-Tenant: beta"},
		} {
			all.Go(func() {
				for _, op := range slices.Sorted(maps.Keys(wire.Rules)) {
					method, path := wire.Rules[op].Methods[0], "/"+string(op)+"?p=doc&c="+origin
					if slices.Contains([]wire.Op{wire.Download, wire.Replace, wire.Remove}, op) {
						path = "/documents/doc"
					}
					w.ask(true, method, path, "1.1.1/1.1.1/1.1.1: 0", headers...)
				}
				w.ask(true, "PATCH", "/select", "", headers...)
				w.ask(true, "GET", "/nowhere", "", headers...)
				w.ask(true, "OPTIONS", "/select", "", headers...)
			})
		}
	}
}

// misplaceKeys presents keys in ways that do not count, and in requests that
// net/http refuses by itself.
func (w *watched) misplaceKeys(t *testing.T) {
	key := w.keys["beta"]
	for _, name := range []string{"token", "key", "api_key", "access_token", "s", "x"} {
		w.ask(true, "GET", "/select?c="+origin+"&"+name+"="+key, "")
		w.ask(true, "GET", "/api/v2/version?"+name+"="+url.QueryEscape("Bearer "+key), "", "Authorization: Bearer "+key)
	}
	for _, request := range []string{
		rawHead("GET http://"+key+"@{host}/version HTTP/1.1", "Host: {host}", "Connection: close"),
		rawHead("GET http://user:"+key+"@{host}/version?token="+key+" HTTP/1.1", "Host: {host}", "Connection: close"),
		rawHead("GET /version HTTP/1.1", "Host: {host}", "Authorization: Bearer "+key+"\x00", "Connection: close"),
		rawHead("GET /version HTTP/1.1", "Host: {host}", "Authorization : Bearer "+key, "Connection: close"),
		rawHead("GET /version HTTP/1.1", "Host: {host}", "X-SQ-API-Key: "+key+strings.Repeat(" ", 100<<10), "Connection: close"),
		rawHead("POST /update?c="+origin+" HTTP/1.1", "Host: {host}", "X-SQ-API-Key: "+key, "Transfer-Encoding: chunked") + "zz\r\n",
		rawHead("POST /update?c="+origin+" HTTP/1.1", "Host: {host}", "Authorization: "+key, "Transfer-Encoding: chunked") + "3\r\nabcdef\r\n",
		rawHead("CONNECT {host} HTTP/1.1", "Host: {host}", "Proxy-Authorization: Bearer "+key, "Connection: close"),
	} {
		for _, reply := range w.Raw(t, request) {
			w.keep(true, request, reply)
		}
	}
}

// administrate uses the admin API with the right and with wrong keys.
func (w *watched) administrate(t *testing.T) {
	bearer := "Authorization: Bearer " + w.keys["admin"]
	added := w.Do(adminKey, "POST", "/api/v2/admin/tenants/add", `{"tenant_id": "added", "quota_mb": 5}`) // the one answer with a key
	var answer struct {
		Key string `json:"api_key"`
	}
	must(t, json.Unmarshal([]byte(added.Body), &answer))
	w.keys["added"] = answer.Key
	if got := w.ask(true, "POST", "/update?c="+origin, "text", "X-SQ-API-Key: "+answer.Key); got.Status != 200 {
		t.Errorf("the added key: %d %q", got.Status, got.Body)
	}
	for _, headers := range [][]string{{bearer}, {"X-SQ-API-Key: " + adminKey}, {"Authorization: " + answer.Key}, {"X-SQ-API-Key: " + w.keys["unknown"]}, nil} {
		for _, path := range []string{"tenants", "health", "tenants/alpha/stats", "tenants/added/stats", "tenants/nobody/stats", "nowhere"} {
			w.ask(false, "GET", "/api/v2/admin/"+path, "", headers...)
		}
		w.ask(false, "POST", "/api/v2/admin/tenants/add", `{"tenant_id": "added"}`, headers...)
		w.ask(false, "POST", "/api/v2/admin/tenants/add", `{"tenant_id": "x", "api_key": "`+w.keys["unknown"]+`"}`, headers...)
		w.ask(false, "GET", "/api/v2/metrics", "", headers...)
	}
	w.ask(false, "GET", "/healthz", "", bearer)
	if got := w.ask(false, "DELETE", "/api/v2/admin/tenants/gone", "", bearer); got.Status != 200 {
		t.Errorf("delete: %d %q", got.Status, got.Body)
	}
	if out, err := w.Caddy("reload", "--config", filepath.Join(w.dir, "Caddyfile")); err != nil {
		t.Errorf("reload: %v", err)
	} else {
		w.answers = append(w.answers, kept{"caddy reload", out, false})
	}
}

// breakThings has workers die and a tenant's data be unusable.
func (w *watched) breakThings(t *testing.T) {
	key := "X-SQ-API-Key: " + w.keys["beta"]
	must(t, os.WriteFile(filepath.Join(w.DataRoot(), "beta", "broken.phext"), []byte("\xff"), 0o600))
	for _, path := range []string{"/get?p=broken", "/load?p=broken", "/toc?p=broken", "/documents", "/documents/broken"} {
		w.ask(true, "GET", path, "", key)
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGQUIT, syscall.SIGTERM} {
		old := w.Worker("beta")
		must(t, syscall.Kill(old, sig))
		Eventually(t, "beta is served by another worker", func() error {
			got, pids := w.ask(true, "GET", "/select?c="+origin, "", key), w.Workers()["beta"]
			if got.Status != 200 || len(pids) != 1 || pids[0] == old {
				return fmt.Errorf("%d %q, workers %v", got.Status, got.Body, pids)
			}
			return nil
		})
	}
	// A worker that cannot start.
	dir := filepath.Join(w.DataRoot(), "beta")
	must(t, os.Rename(dir, dir+".away"))
	must(t, syscall.Kill(w.Worker("beta"), syscall.SIGKILL))
	Eventually(t, "beta is not served", func() error {
		if got := w.ask(true, "GET", "/select?c="+origin, "", key); got.Status != 503 {
			return fmt.Errorf("%d %q", got.Status, got.Body)
		}
		return nil
	})
	w.ask(false, "GET", "/api/v2/admin/tenants/beta/stats", "", "Authorization: Bearer "+adminKey)
	must(t, os.Rename(dir+".away", dir))
}

// breakTenantsFile has the edge refuse files whose fault is near a key, and then
// take one with another key for alpha.
func (w *watched) breakTenantsFile() {
	good, err := os.ReadFile(w.ConfigPath())
	must(w.t, err)
	alpha := w.keys["alpha"]
	for _, bad := range []string{
		strings.Replace(string(good), `"`+alpha+`"`, `"`+alpha, 1),
		strings.Replace(string(good), `"`+alpha+`"`, alpha, 1),
		strings.Replace(string(good), `"`+alpha+`"`, `"`+w.keys["beta"]+`"`, 1),
		strings.Replace(string(good), `"`+alpha+`"`, `"`+adminKey+`"`, 1),
		strings.Replace(string(good), `"`+alpha+`"`, `"`+alpha+` "`, 1),
		strings.Replace(string(good), `"`+alpha+`"`, `["`+alpha+`"]`, 1),
		strings.Replace(string(good), `"api_key": "`+alpha+`"`, `"api_key": "`+alpha+`", "api_key": "`+alpha+`"`, 1),
		string(good) + alpha,
		alpha,
	} {
		if bad == string(good) {
			w.t.Fatal("a replacement did nothing")
		}
		before := w.Metric("sq_config_reload_failures_total")
		must(w.t, os.WriteFile(w.ConfigPath(), []byte(bad), 0o600))
		Eventually(w.t, "the bad file is refused", func() error {
			if w.Metric("sq_config_reload_failures_total") == before {
				return fmt.Errorf("no failure is counted for %q", bad)
			}
			return nil
		})
		w.ask(false, "GET", "/api/v2/admin/health", "", "Authorization: Bearer "+adminKey)
	}
	w.setTenants("rotated", "beta")
	w.AwaitStatus(w.keys["rotated"], 200)
	w.ask(true, "GET", "/version", "", "Authorization: Bearer "+alpha)
}

// wantNoKey searches a text.
func (w *watched) wantNoKey(t *testing.T, where string, text []byte) {
	t.Helper()
	for name, key := range w.keys {
		if i := bytes.Index(text, []byte(key)); i >= 0 {
			line := text[bytes.LastIndexByte(text[:i], '\n')+1:]
			t.Errorf("%s holds the key %q: %q", where, name, line[:min(len(line), 400)])
		}
	}
}

// searchProcesses reads what the kernel shows of the edge and its workers.
func (w *watched) searchProcesses(t *testing.T) {
	pids := []int{w.cmd.Process.Pid}
	for _, workers := range w.Workers() {
		pids = append(pids, workers...)
	}
	if len(pids) < 2 {
		t.Error("no worker runs")
	}
	for _, pid := range pids {
		for _, name := range []string{"cmdline", "environ"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, name)
			data, err := os.ReadFile(path)
			if err != nil && !os.IsPermission(err) {
				t.Error(err)
			}
			w.wantNoKey(t, path, data)
		}
	}
}

// searchFiles reads all files of the edge: log, data, run directory, Caddy's own.
func (w *watched) searchFiles(t *testing.T) {
	seen := 0
	must(t, filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == w.ConfigPath() {
			return err
		}
		seen++
		data, err := os.ReadFile(path)
		w.wantNoKey(t, path, data)
		return err
	}))
	config, err := os.ReadFile(w.ConfigPath())
	must(t, err)
	if !bytes.Contains(config, []byte(w.keys["beta"])) || seen < 5 || strings.Count(w.Log(), "handled request") < 500 {
		t.Errorf("the search saw %d files and %d requests in the log: it would miss a key", seen, strings.Count(w.Log(), "handled request"))
	}
}

func (w *watched) searchAnswers(t *testing.T) {
	for _, answer := range w.answers {
		w.wantNoKey(t, "the answer to "+clip(answer.what), []byte(answer.text))
		if answer.toTenant && strings.Contains(answer.text, w.dir) {
			t.Errorf("the answer to %s holds a path: %q", clip(answer.what), clip(answer.text))
		}
	}
}
