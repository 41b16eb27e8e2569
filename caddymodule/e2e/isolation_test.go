package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sqedge/sqedge/shared/wire"
)

// canary is beta's text. No answer to alpha may hold any of it.
const (
	canary         = "CANARY-7f3a91 of beta"
	canaryDocument = "canary"
	origin         = "1.1.1/1.1.1/1.1.1"
)

// besieged is an edge on which alpha attacks and beta has something to lose.
type besieged struct {
	*Edge
	before map[string]string
}

// besiege writes the canary as beta, ends the edge so that beta's files hold
// all, and starts it again with beta's worker running. plant, if not nil, works
// on alpha's data directory in between.
func besiege(t *testing.T, plant func(alpha, beta string)) *besieged {
	t.Helper()
	e := Start(t, Setup{Plain: true})
	for _, at := range []string{origin, "2.3.4/5.6.7/8.9.10"} {
		e.Want("tok-beta", "POST", "/insert?p="+canaryDocument+"&c="+at, canary, 200, fmt.Sprintf("Inserted %d bytes", len(canary)))
	}
	e.Want("tok-beta", "POST", "/insert?c="+origin, canary, 200, fmt.Sprintf("Inserted %d bytes", len(canary)))
	e.Quit()
	b := &besieged{Edge: e, before: e.tenantFiles("beta")}
	if len(b.before) != 2 {
		t.Fatalf("beta's files are %q", slices.Collect(maps.Keys(b.before)))
	}
	if plant != nil {
		plant(filepath.Join(e.DataRoot(), "alpha"), filepath.Join(e.DataRoot(), "beta"))
	}
	e.Boot()
	e.Want("tok-beta", "GET", "/select?p="+canaryDocument+"&c="+origin, "", 200, canary)
	return b
}

// TestIsolation runs all attacks that plant nothing against one edge. Those that
// leave something of alpha's own come last.
func TestIsolation(t *testing.T) {
	t.Parallel()
	b := besiege(t, nil)
	for _, attack := range []struct {
		name string
		run  func(*testing.T, *besieged)
	}{
		{"every operation and parameter", testIsolationOfEveryOperationAndParameter},
		{"document paths", testIsolationOfDocumentPaths},
		{"smuggled headers", testIsolationFromSmuggledHeaders},
		{"unknown transfer codings", testIsolationFromUnknownTransferCodings},
		{"chunks and length together", testChunksAndLengthTogether},
		{"oversized everything", testIsolationFromOversizedEverything},
		{"the run directory", testTheRunDirectoryIsTheEdgesAlone},
		{"what names beta is alpha's own", testWhatNamesBetaIsAlphasOwn},
	} {
		b.Run(attack.name, func(t *testing.T, e *Edge) { attack.run(t, &besieged{e, b.before}) })
	}
	b.wantUnharmed(t)
}

// tenantFiles returns the name, kind, mode and content of all in a tenant's data
// directory but the log, which belongs to the worker that runs.
func (e *Edge) tenantFiles(tenant string) map[string]string {
	e.t.Helper()
	root := filepath.Join(e.DataRoot(), tenant)
	files := make(map[string]string)
	must(e.t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		if d.Name() == ".sq" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		files[name] = info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			files[name] += " " + string(data)
			return err
		}
		return nil
	}))
	return files
}

// wantCalm checks that an answer tells nothing of beta.
func (b *besieged) wantCalm(t *testing.T, what string, reply Reply) {
	t.Helper()
	for _, text := range append(slices.Concat(slices.Collect(maps.Values(reply.Header))...), reply.Body) {
		if strings.Contains(text, "CANARY") {
			t.Errorf("%s: the answer holds beta's text: %d %q", what, reply.Status, clip(text))
		}
		if strings.Contains(text, b.dir) {
			t.Errorf("%s: the answer holds a path: %d %q", what, reply.Status, clip(text))
		}
	}
}

// wantRefused checks that an answer is an error of the client's and tells
// nothing of beta.
func (b *besieged) wantRefused(t *testing.T, what string, reply Reply) {
	t.Helper()
	b.wantCalm(t, what, reply)
	if reply.Status < 400 || reply.Status > 499 {
		t.Fatalf("%s: %d %q, want a 4xx", what, reply.Status, clip(reply.Body))
	}
}

// wantUnharmed ends the edge and checks that nothing of beta's has changed.
func (b *besieged) wantUnharmed(t *testing.T) {
	t.Helper()
	b.Want("tok-beta", "GET", "/select?p="+canaryDocument+"&c="+origin, "", 200, canary)
	if metrics := b.Do(adminKey, "GET", "/api/v2/metrics", "").Body; !strings.Contains(metrics, "\nsq_misdirected_total 0\n") {
		t.Error("a request reached the wrong worker")
	}
	b.Quit()
	if after := b.tenantFiles("beta"); !maps.Equal(after, b.before) {
		t.Errorf("beta's files changed from %q to %q", b.before, after)
	}
}

// forgedCoordinates are values of c that try to leave the tenant; %s is beta's
// coordinate.
var forgedCoordinates = []string{
	"beta." + origin, "alpha." + origin, "alpha.beta." + origin, "beta/" + origin, "beta", "beta.",
	"/beta." + origin, "../beta/" + origin, "%2e%2e%2fbeta%2f" + origin, ".." + origin, origin + "%00beta." + origin,
	origin + "%26c%3Dbeta." + origin, origin + "%20beta", origin + "/beta", "%00" + origin, "%0d%0aSQ-Quota:1" + origin,
	origin + "&c=beta." + origin, origin + "&c=" + origin, origin + "&%63=beta." + origin, "beta." + origin + "&c=" + origin,
	"", "0.1.1/1.1.1/1.1.1", "1.1.1/1.1.1/1.1.65536", "-1.1.1/1.1.1/1.1.1", "%2B1.1.1/1.1.1/1.1.1", "1.1.1/1.1.1", "*", "1.*.1/1.1.1/1.1.1",
	"%EF%BC%91.1.1/1.1.1/1.1.1", "1.1.1%2F1.1.1%2F1.1.1.1", "99999999999999999999.1.1/1.1.1/1.1.1", "%zz", "%", strings.Repeat("1.", 5000),
}

// forgedDocuments are values of p that try to leave the data directory; %s is
// the data root.
var forgedDocuments = []string{
	"../beta/canary", "..%2Fbeta%2Fcanary", "%2e%2e%2fbeta%2fcanary", "..%5Cbeta%5Ccanary", "%2e%2e/beta/canary", "/%s/beta/canary",
	"%%2F%s%%2Fbeta%%2Fcanary", "beta/canary", "beta%2Fcanary", "./canary", "..", ".", ".sq", ".trash", ".sq/lock", "canary%00", "%00", "%00../beta/canary",
	"canary%0d%0aSQ-Quota:0", "..%c0%afbeta%c0%afcanary", "%c0%ae%c0%ae%c0%afbeta", "%ff", "%ed%a0%80", "a..b", "%zz", "%2", "canary&p=default", "p&%70=canary",
	strings.Repeat("x", wire.MaxDocumentName+1), strings.Repeat("..%2F", 200) + "etc%2Fpasswd",
}

// attacked are the operations by public path with each of their methods.
func attacked() (requests []struct{ method, path string }) {
	ops := slices.Sorted(maps.Keys(wire.Rules))
	for _, op := range ops {
		if op == wire.Download || op == wire.Replace || op == wire.Remove {
			continue // see testIsolationOfDocumentPaths
		}
		for _, method := range wire.Rules[op].Methods {
			for _, prefix := range []string{"/", "/api/v2/"} {
				requests = append(requests, struct{ method, path string }{method, prefix + string(op)})
			}
		}
	}
	return requests
}

// attacker sends requests with alpha's key.
type attacker struct {
	t    *testing.T
	b    *besieged
	conn *keptAlive
}

// attack sends a request that must be refused. contentType may be empty.
func (a *attacker) attack(method, target, contentType, body string) {
	a.t.Helper()
	headers := []string{"Authorization: Bearer tok-alpha"}
	if contentType != "" {
		headers = append(headers, contentType)
	}
	a.b.wantRefused(a.t, method+" "+clip(target)+" "+clip(body), a.conn.do(method, target, body, headers...))
}

// testIsolationOfEveryOperationAndParameter forges every parameter of every
// operation, in the query and in a form.
func testIsolationOfEveryOperationAndParameter(t *testing.T, b *besieged) {
	c := &attacker{t, b, b.keepAlive(t)}
	for _, r := range attacked() {
		for _, forged := range forgedCoordinates {
			c.attack(r.method, r.path+"?p=canary&c="+forged, "", "attack")
			c.attack(r.method, r.path+"?c="+forged+"&p=canary&s=attack", "", "")
		}
		for _, forged := range forgedDocuments {
			forged = b.fill(forged)
			c.attack(r.method, r.path+"?p="+forged+"&c="+origin, "", "attack")
			c.attack(r.method, r.path+"?c="+origin+"&s=attack&p="+forged, "", "")
		}
		if r.method != "POST" && r.method != "PUT" {
			continue
		}
		for _, forged := range forgedCoordinates {
			c.attack(r.method, r.path, form, "p=canary&s=attack&c="+forged)
		}
		for _, forged := range forgedDocuments {
			c.attack(r.method, r.path, form, "c="+origin+"&s=attack&p="+b.fill(forged))
		}
	}
	if got := b.tenantFiles("alpha"); len(got) != 0 {
		t.Errorf("the attacks made files: %q", got)
	}
}

// fill puts the data root into an attack that names an absolute path.
func (b *besieged) fill(attack string) string {
	if !strings.Contains(attack, "%s") {
		return attack
	}
	root := strings.TrimPrefix(b.DataRoot(), "/")
	if strings.HasPrefix(attack, "%%2F") {
		root = strings.ReplaceAll(root, "/", "%2F")
	}
	return fmt.Sprintf(attack, root)
}

// testIsolationOfDocumentPaths forges the document in documents/{p}.
func testIsolationOfDocumentPaths(t *testing.T, b *besieged) {
	c := &attacker{t, b, b.keepAlive(t)}
	for _, forged := range forgedDocuments {
		forged = b.fill(forged)
		if strings.Contains(forged, "&") {
			continue // a plain character in a path
		}
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "LINK"} {
			for _, prefix := range []string{"/documents/", "/api/v2/documents/"} {
				c.attack(method, prefix+forged, "", "attack")
			}
		}
	}
	for _, path := range []string{
		"/documents/canary?p=canary", "/documents/default?p=../beta/canary", "/documents/default?c=beta." + origin,
		"/documents/../../beta/canary", "/documents/canary/", "/documents/canary/..", "/documents//canary", "/documents/", "//documents/canary",
		"/api/v2/../../beta/canary.phext", "/api/v2/%2e%2e/%2e%2e/beta/canary.phext", "/api/v2/beta/select?p=canary&c=" + origin,
		"/beta/select?p=canary&c=" + origin, "/api/v2//select?p=canary&c=" + origin, "/API/V2/select?p=canary&c=" + origin, "/SELECT?p=canary&c=" + origin,
		"/select/?p=canary&c=" + origin, "/select/canary", "/s%65lect%00?p=canary&c=" + origin, "/stats?c=beta", "/metrics?c=beta", "/api/v2/stats?c=beta",
		"/download?p=canary", "/replace?p=canary", "/remove?p=canary", "/api/v2/download?p=canary",
		"/api/v2/admin/tenants", "/api/v2/admin/tenants/beta", "/api/v2/admin/tenants/beta/stats", "/api/v2/metrics", "/api/v2/admin/../select",
		"/.sq/log", "/.trash/", "/data/beta/canary.phext", "/", "*",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE", "POST"} {
			c.attack(method, path, "", "attack")
		}
	}
	if got := b.tenantFiles("alpha"); len(got) != 0 {
		t.Errorf("the attacks made files: %q", got)
	}
}

// testWhatNamesBetaIsAlphasOwn: what looks like an attack and is a valid name
// must be answered from alpha's own, empty, data.
func testWhatNamesBetaIsAlphasOwn(t *testing.T, b *besieged) {
	for _, path := range []string{
		"/select?p=canary&c=" + origin, "/load?p=canary&c=" + origin, "/get?p=canary", "/toc?p=canary", "/delta?p=canary", "/documents",
		"/select?p=%252e%252e%252fbeta%252fcanary&c=" + origin, "/select?p=beta.canary&c=" + origin, "/select?p=beta:canary&c=" + origin,
		"/select?p=canary&c=" + origin + "&tenant=beta", "/select?p=canary&c=" + origin + "&C=beta." + origin, "/select?p=~beta&c=" + origin,
		"/select?p=canary&c=" + origin + ";p=default;c=beta",
	} {
		got := b.Do("tok-alpha", "GET", path, "")
		b.wantCalm(t, path, got)
		if got.Status == 200 && got.Body != "" {
			t.Errorf("%s: %q, want alpha's own, which is empty", path, got.Body)
		}
	}
	b.Want("tok-alpha", "GET", "/json-export?p=canary", "", 200, "[]\n")
	b.Want("tok-alpha", "DELETE", "/delete?p=canary&c="+origin, "", 200, "Removed 0 bytes")
	b.Want("tok-alpha", "DELETE", "/documents/canary", "", 404, `no document "canary"`)
	b.Want("tok-alpha", "POST", "/update?p=canary&c="+origin, "alpha's", 200, "Updated 7 bytes")
	b.Want("tok-beta", "GET", "/select?p=canary&c="+origin, "", 200, canary)
}
