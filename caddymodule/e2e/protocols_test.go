package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"github.com/sqedge/sqedge/shared/wire"
)

// TestHTTP has what every client, browser and library relies on, on one edge.
func TestHTTP(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	e.Run("every version is served", testEveryHTTPVersionIsServed)
	e.Run("every answer forbids caching and sniffing and allows every origin", testEveryAnswerForbidsCachingAndSniffingAndAllowsEveryOrigin)
	e.Run("preflight needs no key and allows what the API takes", testPreflightNeedsNoKeyAndAllowsWhatTheAPITakes)
	e.Run("HEAD answers as GET without the body", testHEADAnswersAsGETWithoutTheBody)
	e.Run("errors are problems where JSON is preferred", testErrorsAreProblemsWhereJSONIsPreferred)
	e.Run("Unauthorized names the scheme", testUnauthorizedNamesTheScheme)
	e.Run("Method Not Allowed lists those that are", testMethodNotAllowedListsThoseThatAre)
	e.Run("a failed delta has an empty body", testFailedDeltaHasAnEmptyBody)
	e.Run("listed origins alone are allowed", testListedOriginsAlone)
}

// protocols are clients that each speak one version of HTTP.
func (e *Edge) protocols(t *testing.T) map[int]*http.Client {
	t.Helper()
	config := e.tlsConfig()
	config.NextProtos = nil
	one := &http.Transport{TLSClientConfig: config, Protocols: new(http.Protocols), DisableCompression: true}
	one.Protocols.SetHTTP1(true)
	t.Cleanup(one.CloseIdleConnections)
	three := &http3.Transport{TLSClientConfig: e.tlsConfig(), DisableCompression: true}
	t.Cleanup(func() { three.Close() })
	return map[int]*http.Client{1: {Transport: one}, 2: e.client, 3: {Transport: three}}
}

// testEveryHTTPVersionIsServed has the same conversation in each.
func testEveryHTTPVersionIsServed(t *testing.T, e *Edge) {
	document := strings.Repeat("a line of a document of some size\n", 150_000) // 5 MB
	for version, client := range e.protocols(t) {
		ask := func(key, method, path string, body io.Reader, headers ...string) Reply {
			t.Helper()
			got, err := e.TryWith(client, key, method, path, body, 0, headers...)
			if err != nil || got.Proto != version {
				t.Fatalf("HTTP/%d: %s %s: HTTP/%d, %v", version, method, path, got.Proto, err)
			}
			return got
		}
		want := func(got Reply, status int, body string) {
			t.Helper()
			if got.Status != status || got.Body != body {
				t.Errorf("HTTP/%d: %d %q, want %d %q", version, got.Status, clip(got.Body), status, clip(body))
			}
		}
		p := "/api/v2/%s?p=v&c=1.1.1/1.1.1/1.1." + string(rune('0'+version))
		op := func(name string) string { return strings.Replace(p, "%s", name, 1) }
		want(ask("tok-alpha", "POST", op("update"), strings.NewReader("text")), 200, "Updated 4 bytes")
		want(ask("tok-alpha", "POST", "/insert", strings.NewReader("p=v&text=+more&c=1.1.1/1.1.1/1.1."+string(rune('0'+version))), form), 200, "Inserted 5 bytes")
		want(ask("tok-alpha", "GET", op("select"), nil), 200, "text more")
		want(ask("tok-beta", "GET", op("select"), nil), 200, "")
		want(ask("", "GET", op("select"), nil), 401, "Unauthorized")
		want(ask("tok-alpha", "PATCH", op("select"), nil), 405, "Method Not Allowed")
		want(ask("tok-alpha", "HEAD", op("select"), nil), 200, "")
		want(ask("tok-alpha", "OPTIONS", op("select"), nil), 204, "")
		want(ask("tok-alpha", "DELETE", op("delete"), nil), 200, "Removed 9 bytes")
		// A reader of unknown length is sent in chunks, or frames, without a length.
		unknown := struct{ io.Reader }{strings.NewReader(document)}
		want(ask("tok-alpha", "PUT", "/documents/big", unknown), 200, "Replaced big.phext: 5100000 bytes")
		want(ask("tok-alpha", "GET", "/documents/big", nil), 200, document)
		want(ask("tok-alpha", "PUT", "/documents/big", strings.NewReader(document[1:])), 200, "Replaced big.phext: 5099999 bytes")
		want(ask("tok-alpha", "GET", "/get?p=big", nil), 200, document[1:])
		want(ask("tok-alpha", "POST", op("update"), struct{ io.Reader }{strings.NewReader("")}), 200, "Updated 0 bytes")
		want(ask("tok-alpha", "POST", op("update"), struct{ io.Reader }{bytes.NewReader(make([]byte, 16<<20+1))}), 413, "text is larger than 16777216 bytes")
	}
}

// guarded are requests whose answers differ in every other way.
var guarded = []struct {
	key, method, path, body string
	status                  int
}{
	{"tok-alpha", "GET", "/version", "", 200},
	{"tok-alpha", "POST", "/update?p=g&c=" + origin, "text", 200},
	{"tok-alpha", "GET", "/select?p=g&c=" + origin, "", 200},
	{"tok-alpha", "HEAD", "/select?p=g&c=" + origin, "", 200},
	{"tok-alpha", "GET", "/get?p=g", "", 200},
	{"tok-alpha", "GET", "/json-export?p=g", "", 200},
	{"tok-alpha", "GET", "/documents", "", 200},
	{"tok-alpha", "GET", "/documents/g", "", 200},
	{"tok-alpha", "GET", "/documents/none", "", 404},
	{"tok-alpha", "GET", "/select?p=g&c=0", "", 400},
	{"tok-alpha", "POST", "/delta?p=g", "nonsense", 400},
	{"tok-alpha", "POST", "/update?p=g&c=" + origin, "\x17", 400},
	{"tok-alpha", "GET", "/nowhere", "", 404},
	{"tok-alpha", "PATCH", "/select", "", 405},
	{"", "GET", "/select?p=g&c=" + origin, "", 401},
	{"", "POST", "/delta?p=g", "", 401},
	{"", "OPTIONS", "/select", "", 204},
	{"", "OPTIONS", "/api/v2/admin/tenants", "", 204},
	{"", "GET", "/healthz", "", 200},
	{"", "GET", "/api/v2/admin/tenants", "", 403},
	{adminKey, "GET", "/api/v2/admin/tenants", "", 200},
	{adminKey, "GET", "/api/v2/metrics", "", 200},
	{adminKey, "GET", "/select?p=g&c=" + origin, "", 403},
}

func testEveryAnswerForbidsCachingAndSniffingAndAllowsEveryOrigin(t *testing.T, e *Edge) {
	for _, tt := range guarded {
		got := e.Do(tt.key, tt.method, tt.path, tt.body, "Origin: https://app.example.com")
		if got.Status != tt.status {
			t.Errorf("%s %s: %d %q, want %d", tt.method, tt.path, got.Status, clip(got.Body), tt.status)
		}
		// What carries an ETag may be kept by the client alone, and asked for anew.
		caching := "no-store"
		if got.Header.Get("ETag") != "" {
			caching = "private, no-cache"
		}
		for name, want := range map[string]string{
			"Cache-Control": caching, "X-Content-Type-Options": "nosniff", "Access-Control-Allow-Origin": "*",
		} {
			if value := got.Header.Values(name); len(value) != 1 || value[0] != want {
				t.Errorf("%s %s: %s is %q, want %q", tt.method, tt.path, name, value, want)
			}
		}
		if exposed := got.Header.Get("Access-Control-Expose-Headers"); !strings.Contains(exposed, "SQ-Error") {
			t.Errorf("%s %s: a page may read %q, want SQ-Error too", tt.method, tt.path, exposed)
		}
	}
}

// testListedOriginsAlone: with cors_origin, any other page is told nothing, and
// caches that ignore no-store must tell the answers apart.
func testListedOriginsAlone(t *testing.T, e *Edge) {
	e.Reload("# cors_origin *", "cors_origin https://app.example.com http://localhost:3000")
	for _, tt := range guarded {
		for origin, want := range map[string]string{
			"https://app.example.com": "https://app.example.com", "http://localhost:3000": "http://localhost:3000",
			"https://evil.example": "", "https://app.example.com.evil.example": "", "https://APP.example.com": "", "null": "", "*": "", "": "",
		} {
			var headers []string
			if origin != "" {
				headers = []string{"Origin: " + origin}
			}
			got := e.Do(tt.key, tt.method, tt.path, tt.body, headers...)
			if allowed := strings.Join(got.Header.Values("Access-Control-Allow-Origin"), "|"); allowed != want {
				t.Errorf("%s %s from %q allows %q, want %q", tt.method, tt.path, origin, allowed, want)
			}
			if !strings.Contains(got.Header.Get("Vary"), "Origin") {
				t.Errorf("%s %s: Vary is %q, want Origin", tt.method, tt.path, got.Header.Get("Vary"))
			}
		}
	}
}

func testPreflightNeedsNoKeyAndAllowsWhatTheAPITakes(t *testing.T, e *Edge) {
	for op, rule := range wire.Rules {
		path := "/api/v2/" + string(op)
		if slices.Contains([]wire.Op{wire.Download, wire.Replace, wire.Remove}, op) {
			path = "/documents/doc"
		}
		for _, method := range rule.Methods {
			got := e.Do("", "OPTIONS", path, "", "Origin: https://a.example", "Access-Control-Request-Method: "+method, "Access-Control-Request-Headers: authorization,x-sq-api-key,content-type")
			if got.Status != 204 || got.Body != "" {
				t.Errorf("OPTIONS %s: %d %q", path, got.Status, got.Body)
			}
			if allowed := got.Header.Get("Access-Control-Allow-Methods"); !strings.Contains(allowed, method) {
				t.Errorf("OPTIONS %s allows %q, want %s", path, allowed, method)
			}
			for _, name := range []string{"Authorization", "X-SQ-API-Key", "Content-Type"} {
				if allowed := got.Header.Get("Access-Control-Allow-Headers"); !strings.Contains(allowed, name) {
					t.Errorf("OPTIONS %s allows the headers %q, want %s", path, allowed, name)
				}
			}
		}
	}
}

func testHEADAnswersAsGETWithoutTheBody(t *testing.T, e *Edge) {
	e.Want("tok-alpha", "POST", "/update?p=h&c="+origin, "some text", 200, "Updated 9 bytes")
	for op, rule := range wire.Rules {
		path := "/" + string(op) + "?p=h&c=" + origin
		if op == wire.Download {
			path = "/documents/h"
		}
		if op == wire.Replace || op == wire.Remove || op == wire.Documents {
			continue
		}
		head := e.Do("tok-alpha", "HEAD", path, "")
		if !slices.Contains(rule.Methods, "GET") || rule.Write {
			if head.Status != 405 || strings.Contains(head.Header.Get("Allow"), "HEAD") {
				t.Errorf("HEAD %s: %d, Allow %q, want 405 without HEAD", path, head.Status, head.Header.Get("Allow"))
			}
			continue
		}
		get := e.Do("tok-alpha", "GET", path, "")
		if head.Status != get.Status || get.Status != 200 || head.Body != "" {
			t.Errorf("%s: HEAD is answered %d %q, GET %d", path, head.Status, head.Body, get.Status)
		}
		for _, name := range []string{"Content-Type", "Content-Length", "Cache-Control", "Etag"} {
			// Of an answer in a stream GET has no length; HEAD need not know it either.
			if h, g := head.Header.Get(name), get.Header.Get(name); h != g && !(name == "Content-Length" && h == "") {
				t.Errorf("%s: HEAD has %s %q, GET %q", path, name, h, g)
			}
		}
	}
	e.Want("tok-alpha", "HEAD", "/documents", "", 200, "")
	e.Want("tok-alpha", "GET", "/select?p=h&c="+origin, "", 200, "some text")
}

// testErrorsAreProblemsWhereJSONIsPreferred: RFC 9457, else one line of text.
func testErrorsAreProblemsWhereJSONIsPreferred(t *testing.T, e *Edge) {
	for accept, problem := range map[string]bool{
		"": false, "*/*": false, "text/plain": false, "text/html,*/*;q=0.8": false, "text/plain, application/json": false, "application/json;q=0.5, text/plain": false,
		"application/json": true, "application/problem+json": true, "application/json, */*;q=0.1": true, "text/plain;q=0.5, application/json": true,
	} {
		for _, tt := range guarded {
			if tt.status < 400 || strings.HasPrefix(tt.path, "/delta") {
				continue
			}
			var headers []string
			if accept != "" {
				headers = []string{"Accept: " + accept}
			}
			got := e.Do(tt.key, tt.method, tt.path, tt.body, headers...)
			kind := got.Header.Get("Content-Type")
			if !problem {
				if got.Status != tt.status || kind != "text/plain; charset=utf-8" || got.Body == "" || strings.Contains(got.Body, "\n") {
					t.Errorf("%s %s, Accept %q: %d %s %q, want %d and a line of text", tt.method, tt.path, accept, got.Status, kind, got.Body, tt.status)
				}
				continue
			}
			var p struct {
				Type, Title, Detail string
				Status              int
			}
			err := json.Unmarshal([]byte(got.Body), &p)
			if err != nil || kind != "application/problem+json" || got.Status != tt.status || p.Status != tt.status ||
				p.Type != "about:blank" || p.Title != http.StatusText(tt.status) || p.Detail == "" {
				t.Errorf("%s %s, Accept %q: %d %s %q", tt.method, tt.path, accept, got.Status, kind, got.Body)
			}
		}
	}
}

func testUnauthorizedNamesTheScheme(t *testing.T, e *Edge) {
	for _, header := range []string{"X-A: b", "Authorization: Bearer guess", "Authorization: Basic dG9rLWFscGhh", "X-SQ-API-Key: guess", "X-SQ-API-Key: "} {
		for _, path := range []string{"/select", "/delta", "/nowhere", "/documents/x"} {
			got := e.Do("", "GET", path, "", header)
			if got.Status != 401 || got.Header.Get("Www-Authenticate") != "Bearer" {
				t.Errorf("%s with %q: %d, WWW-Authenticate %q", path, header, got.Status, got.Header.Get("Www-Authenticate"))
			}
		}
	}
}

func testMethodNotAllowedListsThoseThatAre(t *testing.T, e *Edge) {
	methods := []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"}
	ops := maps.Clone(wire.Rules)
	delete(ops, wire.Replace)
	delete(ops, wire.Remove)
	for op, rule := range ops {
		path, allowed := "/"+string(op), slices.Clone(rule.Methods)
		if op == wire.Download {
			path, allowed = "/documents/none", []string{"GET", "PUT", "DELETE"}
		}
		if slices.Contains(allowed, "GET") && !rule.Write {
			allowed = append(allowed, "HEAD")
		}
		want := slices.Sorted(slices.Values(append(slices.Clone(allowed), "OPTIONS")))
		for _, method := range methods {
			if slices.Contains(allowed, method) {
				continue
			}
			got := e.Do("tok-alpha", method, path+"?c="+origin, "")
			list := strings.Split(got.Header.Get("Allow"), ", ")
			slices.Sort(list)
			if got.Status != 405 || !slices.Equal(list, want) {
				t.Errorf("%s %s: %d, Allow %q, want 405 and %q", method, path, got.Status, list, want)
			}
		}
	}
}

// testFailedDeltaHasAnEmptyBody: an existing editor merges any body of delta
// into its user's file.
func testFailedDeltaHasAnEmptyBody(t *testing.T, e *Edge) {
	big := strings.Repeat("x", 16<<20+1)
	for _, tt := range []struct {
		key, method, path, body string
		status                  int
	}{
		{"tok-alpha", "POST", "/delta?p=d", "nonsense", 400},
		{"tok-alpha", "POST", "/delta?p=d", "0.0.0/0.0.0/0.0.0: abc", 400},
		{"tok-alpha", "POST", "/delta?p=d", "\xff", 400},
		{"tok-alpha", "GET", "/delta?p=d&s=nonsense", "", 400},
		{"tok-alpha", "GET", "/delta?p=../d", "", 400},
		{"tok-alpha", "GET", "/delta?p=d&p=d", "", 400},
		{"tok-alpha", "GET", "/delta?p=%zz", "", 400},
		{"tok-alpha", "GET", "/delta?p=%C3%A9/", "", 400},
		{"tok-alpha", "GET", "/delta?p=" + big[:300], "", 400},
		{"tok-alpha", "POST", "/delta?p=d", big, 413},
		{"tok-alpha", "DELETE", "/delta?p=d", "", 405},
		{"", "POST", "/delta?p=d", "", 401},
		{adminKey, "POST", "/delta?p=d", "", 403},
	} {
		for _, prefix := range []string{"", "/api/v2"} {
			for _, accept := range []string{"text/plain", "application/json"} {
				got := e.Do(tt.key, tt.method, prefix+tt.path, tt.body, "Accept: "+accept)
				if got.Status != tt.status || got.Body != "" || got.Header.Get("Sq-Error") == "" {
					t.Errorf("%s %s: %d %q, SQ-Error %q, want %d, nothing and a message", tt.method, clip(prefix+tt.path), got.Status, clip(got.Body), got.Header.Get("Sq-Error"), tt.status)
				}
			}
		}
	}
}
