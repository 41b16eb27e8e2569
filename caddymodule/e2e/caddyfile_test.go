package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestCaddyfileValidatesAndStartsNothing runs the commands that look at the
// Caddyfile, on a machine where the edge never ran.
func TestCaddyfileValidatesAndStartsNothing(t *testing.T) {
	t.Parallel()
	for _, withTenants := range []bool{true, false} {
		traces := t.TempDir()
		worker := filepath.Join(traces, "sq-worker")
		must(t, os.WriteFile(worker, []byte("#!/bin/sh\necho \"$@\" >>\"$0.ran\"\n"), 0o700))
		e := Prepare(t, Setup{Env: []string{"SQ_WORKER=" + worker}})
		if !withTenants {
			must(t, os.Remove(e.ConfigPath()))
		}
		before := tree(t, e.dir)
		for _, command := range []string{"validate", "adapt"} {
			out, err := e.Caddy(command, "--config", filepath.Join(e.dir, "Caddyfile"))
			if err != nil {
				t.Errorf("%s with tenants.json %v: %v\n%s", command, withTenants, err, out)
			}
			if command == "validate" && !strings.Contains(out, "Valid configuration") {
				t.Errorf("validate says:\n%s", out)
			}
			if strings.Contains(out, "Caddyfile input is not formatted") {
				t.Errorf("%s: run caddy fmt:\n%s", command, out)
			}
		}
		if after := tree(t, e.dir); after != before {
			t.Errorf("with tenants.json %v, files before:\n%s\nafter:\n%s", withTenants, before, after)
		}
		if ran, err := os.ReadFile(worker + ".ran"); !os.IsNotExist(err) {
			t.Errorf("workers were started: %s, %v", ran, err)
		}
	}
}

// tree lists all files below dir, but for what Caddy keeps for itself.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var list strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "xdg" {
			return filepath.SkipDir
		}
		fmt.Fprintln(&list, path)
		return err
	}))
	return list.String()
}

func TestCaddyfileValidationNamesTheFaultOfABadTenantsFile(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	must(t, os.WriteFile(e.ConfigPath(), []byte(`{"admin_key": "short", "tenants": []}`), 0o600))
	out, err := e.Caddy("validate", "--config", filepath.Join(e.dir, "Caddyfile"))
	if err == nil || !strings.Contains(out, e.ConfigPath()+":1:15: admin_key must have") || strings.Contains(out, "short") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTopLevelCaddyfileAdaptsToTheGolden(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	path, err := filepath.Abs("../../Caddyfile")
	must(t, err)
	cmd := e.command(t.Context(), "adapt", "--config", path)
	cmd.Env = []string{roleCaddy + "=1", "HOME=" + e.dir} // every default as it is
	out, err := cmd.Output()
	must(t, err)
	var got bytes.Buffer
	must(t, json.Indent(&got, out, "", "  "))
	const golden = "testdata/Caddyfile.json"
	if *update {
		must(t, os.WriteFile(golden, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if strings.TrimSpace(got.String()) != strings.TrimSpace(string(want)) {
		t.Errorf("the Caddyfile adapts to (go test -run Golden -update accepts it):\n%s", got.String())
	}
}

func TestTenantAddCommandAddsATenantThatARunningEdgePicksUp(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	dir := filepath.Join(e.dir, "gamma")
	must(t, os.Mkdir(dir, 0o700))
	out, err := e.command(t.Context(), "sq-tenant-add", "--id", "gamma", "--data-dir", dir, "--quota-mb", "7").Output()
	must(t, err)
	if !regexp.MustCompile(`^pmb-v1-[0-9a-f]{32}\n$`).Match(out) {
		t.Fatalf("it printed %q, want the key alone", out)
	}
	key := strings.TrimSpace(string(out))
	e.AwaitStatus(key, 200)
	e.Want(key, "POST", "/insert?p=notes&c="+origin, "hello", 200, "Inserted 5 bytes")
	if stats := e.Stats("gamma"); stats.QuotaMB != 7 || !stats.Enabled {
		t.Errorf("stats: %+v", stats)
	}
	e.Quit()
	if OnDisk(t, dir)["notes"][origin] != "hello" {
		t.Error("the data went elsewhere")
	}
}

func TestTenantAddCommandRefusals(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	free, file := filepath.Join(e.dir, "free"), filepath.Join(e.dir, "file")
	must(t, os.Mkdir(free, 0o700))
	must(t, os.WriteFile(file, nil, 0o600))
	inside := filepath.Join(e.Tenant("alpha").DataDir, "inside")
	must(t, os.Mkdir(inside, 0o700))
	before, err := os.ReadFile(e.ConfigPath())
	must(t, err)
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no id", []string{"--data-dir", free}, "--id: tenant id is empty"},
		{"bad id", []string{"--id", "Gamma", "--data-dir", free}, "--id: tenant id has a character"},
		{"no directory", []string{"--id", "gamma"}, "--data-dir"},
		{"relative directory", []string{"--id", "gamma", "--data-dir", "free"}, "want an absolute path"},
		{"missing directory", []string{"--id", "gamma", "--data-dir", "/no/such/dir"}, "no such file or directory"},
		{"a file", []string{"--id", "gamma", "--data-dir", file}, "not a directory"},
		{"an unclean path", []string{"--id", "gamma", "--data-dir", free + "/../free"}, "not a clean path"},
		{"an id that exists", []string{"--id", "alpha", "--data-dir", free}, "exists already"},
		{"another's directory", []string{"--id", "gamma", "--data-dir", e.Tenant("alpha").DataDir}, "data directory is"},
		{"inside another's directory", []string{"--id", "gamma", "--data-dir", inside}, "lies inside"},
		{"around another's directory", []string{"--id", "gamma", "--data-dir", e.DataRoot()}, "holds"},
		{"negative quota", []string{"--id", "gamma", "--data-dir", free, "--quota-mb", "-1"}, "quota"},
		{"no tenants file", []string{"--id", "gamma", "--data-dir", free, "--config", "/no/such/tenants.json"}, "SQ_CONFIG"},
	} {
		out, err := e.Caddy(append([]string{"sq-tenant-add"}, tt.args...)...)
		if err == nil || !strings.Contains(out, tt.want) || strings.Contains(out, "pmb-v1-") {
			t.Errorf("%s: %v, %q, want an error with %q", tt.name, err, clip(out), tt.want)
		}
	}
	after, err := os.ReadFile(e.ConfigPath())
	must(t, err)
	if string(after) != string(before) {
		t.Errorf("the file was changed:\n%s", after)
	}
}

// accessLine is what a test reads of a line in Caddy's access log.
type accessLine struct {
	Logger  string
	Status  int
	UserID  string `json:"user_id"`
	Added   string `json:"tenant_seen"`
	Request struct {
		Method, URI string
		Headers     map[string]any // a filter may make a string of a list
	}
}

func accessLines(t *testing.T, log string) (lines []accessLine) {
	t.Helper()
	for text := range strings.Lines(log) {
		var line accessLine
		if json.Unmarshal([]byte(text), &line) == nil && strings.HasPrefix(line.Logger, "http.log.access") {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestAccessLogNamesTheTenantAndHidesKeysAndTexts(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	for _, r := range []struct{ who, key, path, header string }{
		{"bearer", "tok-alpha", "/toc", "X-Other: x"},
		{"header", "", "/toc", "X-SQ-API-Key: tok-beta"},
		{"admin", adminKey, "/api/v2/admin/tenants", "X-Other: x"},
		{"wrong", "wrong-key", "/toc", "X-Other: x"},
		{"nobody", "", "/toc", "X-Other: x"},
		{"text", "tok-alpha", "/insert?c=" + origin + "&s=A+secret", "X-Other: x"},
		{"text", "tok-alpha", "/insert?c=" + origin + "&text=A+secret", "X-Other: x"},
		{"text", "tok-alpha", "/insert?c=" + origin + "&content=A+secret", "X-Other: x"},
		{"key in the query", "", "/toc?key=tok-alpha", "X-Other: x"},
	} {
		e.Do(r.key, "GET", r.path, "", r.header, "User-Agent: "+r.who)
	}
	e.Quit()
	users := make(map[string]string)
	for _, line := range accessLines(t, e.Log()) {
		users[strings.Trim(fmt.Sprint(line.Request.Headers["User-Agent"]), "[]")] = fmt.Sprint(line.Status, " ", line.UserID)
	}
	want := map[string]string{"bearer": "200 alpha", "header": "200 beta", "admin": "200 admin", "wrong": "401 ", "nobody": "401 ", "key in the query": "401 ", "text": "200 alpha"}
	for who, user := range want {
		if users[who] != user {
			t.Errorf("%s is logged as %q, want %q", who, users[who], user)
		}
	}
	for _, secret := range []string{"tok-alpha", "tok-beta", adminKey, "wrong-key", "secret"} {
		if strings.Contains(e.Log(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestTenantIsAPlaceholderForOtherHandlers(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	e.edit("\tsq_admin\n", "\tlog_append tenant_seen {http.auth.user.id}\n\theader >X-Tenant-Seen {http.auth.user.id}\n\tsq_admin\n")
	e.Boot()
	for _, tenant := range []string{"alpha", "beta"} {
		if got := e.Do("tok-"+tenant, "GET", "/toc", "").Header.Get("X-Tenant-Seen"); got != tenant {
			t.Errorf("%s: the header module saw %q", tenant, got)
		}
	}
	// Client text that looks like a placeholder stays what it is.
	const text = "{http.auth.user.id} {env.HOME} {file./etc/passwd}"
	e.Want("tok-alpha", "POST", "/insert?c="+origin, text, 200, fmt.Sprintf("Inserted %d bytes", len(text)))
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, text)
	e.Quit()
	seen := make(map[string]int)
	for _, line := range accessLines(t, e.Log()) {
		seen[line.Added]++
	}
	if seen["alpha"] != 3 || seen["beta"] != 1 {
		t.Errorf("log_append saw %v", seen)
	}
}
