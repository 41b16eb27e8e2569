package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Encode returns a tenants.json.
func Encode(t *testing.T, tenants ...Tenant) []byte {
	t.Helper()
	data, err := json.MarshalIndent(map[string]any{"admin_key": adminKey, "tenants": tenants}, "", "  ")
	must(t, err)
	return data
}

// rename writes a file beside path and renames it over path, as most editors do.
func rename(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path+"~", data, 0o600))
	MustRename(t, path+"~", path)
}

// mountSecret makes path what it is where Kubernetes mounts a secret: a link to
// ..data/NAME, where ..data links to a dated directory that a new one replaces.
func mountSecret(t *testing.T, path string, data []byte) {
	t.Helper()
	dir, name := filepath.Split(path)
	dated, err := os.MkdirTemp(dir, "..2026_")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dated, name), data, 0o600))
	link := filepath.Join(dir, "..data_tmp")
	must(t, os.Symlink(filepath.Base(dated), link))
	old, err := os.Readlink(filepath.Join(dir, "..data"))
	MustRename(t, link, filepath.Join(dir, "..data"))
	if err == nil {
		must(t, os.RemoveAll(filepath.Join(dir, old)))
		return
	}
	must(t, os.Remove(path))
	must(t, os.Symlink("..data/"+name, path))
}

// AwaitStatus waits until a request with key gets status, which must happen
// within about a second of a change of tenants.json.
func (e *Edge) AwaitStatus(key string, status int) {
	e.t.Helper()
	Eventually(e.t, fmt.Sprintf("a key gets %d", status), func() error {
		if got := e.Do(key, "GET", "/version", ""); got.Status != status {
			return fmt.Errorf("it gets %d %q", got.Status, got.Body)
		}
		return nil
	})
}

func TestTenantsFileIsReloadedHoweverItIsSaved(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		save func(t *testing.T, path string, data []byte)
	}{
		{"written in place", func(t *testing.T, path string, data []byte) { must(t, os.WriteFile(path, data, 0o600)) }},
		{"renamed over", rename},
		{"symlink swapped", mountSecret},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := Prepare(t, Setup{Plain: true})
			alpha, beta, gamma := e.Tenant("alpha"), e.Tenant("beta"), e.Tenant("gamma")
			tt.save(t, e.ConfigPath(), Encode(t, alpha, beta))
			e.Boot()
			pid := e.cmd.Process.Pid
			save := func(tenants ...Tenant) {
				t.Helper()
				tt.save(t, e.ConfigPath(), Encode(t, tenants...))
			}
			e.Want(alpha.Key, "POST", "/insert?c="+origin, "kept", 200, "Inserted 4 bytes")
			worker := e.Worker("alpha")

			must(t, os.Mkdir(gamma.DataDir, 0o700))
			save(alpha, beta, gamma)
			e.AwaitStatus(gamma.Key, 200)

			gamma.Key = "tok-gamma-changed"
			save(alpha, beta, gamma)
			e.AwaitStatus(gamma.Key, 200)
			e.AwaitStatus("tok-gamma", 401)

			beta.Enabled, gamma.QuotaMB = false, 7
			save(alpha, beta, gamma)
			e.AwaitStatus(beta.Key, 403)
			if got := e.Metric(`sq_quota_bytes{tenant="gamma"}`); got != 7<<20 {
				t.Errorf("gamma's quota is %v, want 7 MiB", got)
			}

			save(alpha, gamma)
			e.AwaitStatus(beta.Key, 401)
			save(alpha, e.Tenant("beta"), gamma)
			e.AwaitStatus(beta.Key, 200)

			e.Want(alpha.Key, "GET", "/select?c="+origin, "", 200, "kept")
			if e.cmd.Process.Pid != pid || e.Worker("alpha") != worker {
				t.Error("alpha's worker was restarted, though nothing of alpha's changed")
			}
			// A file that is being written in place may be met half-written.
			if n := e.Metric("sq_config_reload_failures_total"); n != 0 && tt.name != "written in place" {
				t.Errorf("%v reloads failed", n)
			}
		})
	}
}

func TestBadTenantsFileKeepsTheLastGoodOne(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	type health struct {
		Status string
		Config struct {
			LastError string `json:"last_error"`
			Tenants   int
		}
	}
	var h health
	if e.Admin("GET", "health", "", 200, &h); h.Status != "ok" || h.Config.LastError != "" || h.Config.Tenants != 2 {
		t.Fatalf("before: %+v", h)
	}
	loaded := e.Metric("sq_config_last_reload_success_timestamp_seconds")
	good, err := os.ReadFile(e.ConfigPath())
	must(t, err)
	for i, tt := range []struct{ name, old, new, want string }{
		{"no JSON", `"enabled": true`, `"enabled": yes`, `line \d+, column \d+: file is not valid JSON`},
		{"cut off", "\n  ]\n}", "", `line \d+, column \d+: file is not valid JSON: unexpected end`},
		{"bad id", `"id": "beta"`, `"id": "../beta"`, `line 12, column 13: tenants\[1\]\.id`},
		{"one key for two", "tok-beta", "tok-alpha", `line 13, column 18: tenants\[1\]\.api_key is the same`},
		{"one directory for two", "/beta", "/alpha", `line 14, column 19: tenants\[1\]\.data_dir is the same`},
	} {
		bad := strings.Replace(string(good), tt.old, tt.new, 1)
		if bad == string(good) {
			t.Fatalf("%s: the file does not hold %q", tt.name, tt.old)
		}
		rename(t, e.ConfigPath(), []byte(bad)) // half-written it would fail once more
		Eventually(t, "health is degraded by "+tt.name, func() error {
			h = health{}
			e.Admin("GET", "health", "", 200, &h)
			if h.Status != "degraded" || !regexp.MustCompile(tt.want).MatchString(h.Config.LastError) {
				return fmt.Errorf("%+v", h)
			}
			return nil
		})
		if strings.Contains(h.Config.LastError, "tok-") {
			t.Errorf("%s: health shows a key: %s", tt.name, h.Config.LastError)
		}
		if n := e.Metric("sq_config_reload_failures_total"); n != float64(i+1) {
			t.Errorf("%s: %v failures counted, want %d", tt.name, n, i+1)
		}
		for _, key := range []string{"tok-alpha", "tok-beta"} {
			e.Want(key, "GET", "/toc", "", 200, "")
		}
	}
	if now := e.Metric("sq_config_last_reload_success_timestamp_seconds"); now != loaded {
		t.Errorf("a bad file counts as loaded: %v, was %v", now, loaded)
	}
	if log := e.Log(); !regexp.MustCompile(`tenants\.json:13:18: tenants\[1\]\.api_key`).MatchString(log) {
		t.Error("the log lacks the file, line and column")
	}
	must(t, os.WriteFile(e.ConfigPath(), good, 0o600))
	Eventually(t, "health is ok again", func() error {
		if e.Admin("GET", "health", "", 200, &h); h.Status != "ok" {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
}

func TestEdgeRefusesToStartWithoutTenantsFile(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	must(t, os.Remove(e.ConfigPath()))
	out := e.StartFails()
	for _, want := range []string{e.ConfigPath(), "no such file", "SQ_CONFIG", "deploy/tenants.json.example"} {
		if !strings.Contains(out, want) {
			t.Errorf("the message lacks %q:\n%s", want, tail(out, 1000))
		}
	}
	if _, err := os.Stat(e.ConfigPath()); err == nil {
		t.Error("a tenants file was made up")
	}
}

func TestEdgeRefusesToStartWithABadTenantsFile(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	must(t, os.WriteFile(e.ConfigPath(), []byte(`{"admin_key": "`+adminKey+`",`+"\n"+`"tenants": 7}`), 0o600))
	if out := e.StartFails(); !strings.Contains(out, e.ConfigPath()+":2:12: tenants must be an array") {
		t.Errorf("the message lacks the place:\n%s", tail(out, 1000))
	}
}

func TestDisabledAndRemovedTenantsFinishTheirRequestsAndTheirWorkersDrain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status int
		change func(Tenant) []Tenant
	}{
		{"disabled", 403, func(beta Tenant) []Tenant { beta.Enabled = false; return []Tenant{beta} }},
		{"removed", 401, func(Tenant) []Tenant { return nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := Start(t, Setup{Plain: true})
			alpha, beta := e.Tenant("alpha"), e.Tenant("beta")
			e.Want(alpha.Key, "POST", "/insert?c="+origin, "x", 200, "Inserted 1 bytes")
			e.Want(beta.Key, "POST", "/insert?p=kept&c="+origin, "kept", 200, "Inserted 4 bytes")
			upload := e.Upload(beta, "big", "begun ")
			e.WriteTenants(append(tt.change(beta), alpha)...)
			e.AwaitStatus(beta.Key, tt.status)
			if got := upload.Finish(t, "finished"); got.Status != 200 && got.Status != 201 {
				t.Errorf("the running request got %d %q", got.Status, got.Body)
			}
			Eventually(t, "beta's worker is gone", func() error {
				if left := e.Workers()["beta"]; len(left) > 0 {
					return fmt.Errorf("left: %v", left)
				}
				return nil
			})
			if tt.name == "removed" {
				Eventually(t, "beta's series are gone from the metrics", func() error {
					if got := e.Do(adminKey, "GET", "/api/v2/metrics", ""); strings.Contains(got.Body, `tenant="beta"`) {
						return errors.New("they are there")
					}
					return nil
				})
			}
			documents := OnDisk(t, beta.DataDir)
			if documents["big"][origin] != "begun finished" || documents["kept"][origin] != "kept" {
				t.Errorf("on disk: %v", documents)
			}
			e.Worker("alpha")
			e.WriteTenants(alpha, beta)
			e.AwaitStatus(beta.Key, 200)
			e.Want(beta.Key, "GET", "/select?p=big&c="+origin, "", 200, "begun finished")
		})
	}
}

func TestRequestLetInBeforeARemovalIsServedHoweverSlowlyItsWorkerStarts(t *testing.T) {
	t.Parallel()
	slow := filepath.Join(t.TempDir(), "sq-worker")
	must(t, os.WriteFile(slow, []byte("#!/bin/sh\n/bin/sleep 0.3\nexec "+workerBinary+` "$@"`+"\n"), 0o700))
	for _, byAPI := range []bool{false, true} {
		e := Start(t, Setup{Plain: true, Env: []string{"SQ_WORKER=" + slow}})
		beta := e.Tenant("beta")
		answer := make(chan uploaded, 1)
		go func() {
			got, err := e.Try(beta.Key, "POST", "/insert?c="+origin, "let in")
			answer <- uploaded{got, err}
		}()
		Eventually(t, "a worker is starting", func() error {
			if e.Metric("sq_workers_running") != 1 {
				return errors.New("it is not")
			}
			return nil
		})
		if byAPI {
			e.Admin("DELETE", "tenants/beta", "", 200, nil)
		} else {
			e.WriteTenants(e.Tenant("alpha"))
		}
		if got := <-answer; got.err != nil || got.Status != 200 {
			t.Errorf("by the API %v: %v, %d %q", byAPI, got.err, got.Status, got.Body)
		}
		e.AwaitStatus(beta.Key, 401)
		e.NoWorkers()
		// The first was told to end while it started; one more served.
		if starts := e.Metric("sq_worker_starts_total"); starts > 2 {
			t.Errorf("by the API %v: %v workers were started for a tenant that was going", byAPI, starts)
		}
	}
}

func TestEditsByHandAndByTheAdminAPIBothSurvive(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	var keys []string
	add := func(id string) {
		t.Helper()
		var added struct {
			Key string `json:"api_key"`
		}
		e.Admin("POST", "tenants/add", `{"tenant_id": "`+id+`"}`, 200, &added)
		keys = append(keys, added.Key)
	}
	for i := range 10 {
		// The edge need not have noticed an edit by hand when the next call
		// of the API changes the file.
		byHand := e.Tenant(fmt.Sprintf("hand-%d", i))
		must(t, os.Mkdir(byHand.DataDir, 0o700))
		data, err := os.ReadFile(e.ConfigPath())
		must(t, err)
		entry, err := json.Marshal(byHand)
		must(t, err)
		edited := strings.Replace(string(data), `"tenants": [`, `"x-note": "by hand", "tenants": [`+string(entry)+",", 1)
		edited = strings.Replace(edited, `"x-note": "by hand", "x-note": "by hand"`, `"x-note": "by hand"`, 1)
		if i%2 == 0 {
			rename(t, e.ConfigPath(), []byte(edited))
		} else {
			must(t, os.WriteFile(e.ConfigPath(), []byte(edited), 0o600))
		}
		add(fmt.Sprintf("api-%d", i))
		keys = append(keys, byHand.Key)
		e.Want(byHand.Key, "GET", "/toc", "", 200, "")
	}
	for _, key := range keys {
		e.Want(key, "GET", "/toc", "", 200, "")
	}
	if data, err := os.ReadFile(e.ConfigPath()); err != nil || !strings.Contains(string(data), `"x-note": "by hand"`) {
		t.Errorf("an unknown member was lost: %v", err)
	}
}

func TestAdminAPIAndCommandsEditTheTenantsFileAtTheSameTime(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	var ids []string
	var all sync.WaitGroup
	for i := range 4 {
		id := fmt.Sprintf("command-%d", i)
		ids = append(ids, id)
		dir := filepath.Join(e.dir, id)
		must(t, os.Mkdir(dir, 0o700))
		all.Go(func() {
			if out, err := e.Caddy("sq-tenant-add", "--id", id, "--data-dir", dir); err != nil {
				t.Errorf("sq-tenant-add: %v\n%s", err, out)
			}
		})
	}
	for i := range 20 {
		id := fmt.Sprintf("api-%d", i)
		ids = append(ids, id)
		all.Go(func() {
			if got, err := e.Try(adminKey, "POST", "/api/v2/admin/tenants/add", `{"tenant_id": "`+id+`"}`); err != nil || got.Status != 200 {
				t.Errorf("add: %v, %d %q", err, got.Status, got.Body)
			}
		})
	}
	all.Wait()
	Eventually(t, "all are in force", func() error {
		var list struct{ Tenants []struct{ ID string } }
		e.Admin("GET", "tenants", "", 200, &list)
		have := make([]string, 0, len(list.Tenants))
		for _, tenant := range list.Tenants {
			have = append(have, tenant.ID)
		}
		for _, id := range ids {
			if !slices.Contains(have, id) {
				return fmt.Errorf("%s is missing among %v", id, have)
			}
		}
		return nil
	})
}
