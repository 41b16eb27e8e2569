package caddymodule

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

const at = "1.1.1/1.1.1/1.1.1"

// testLimit is small enough that tests can pass it.
func testLimit(op wire.Op) int64 {
	if op == wire.Replace {
		return 200
	}
	return 100
}

func newRequest(method, target, contentType, body string) *http.Request {
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	u, err := url.ParseRequestURI(target)
	if err != nil {
		panic(err)
	}
	r.URL, r.RequestURI = u, target
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

const form = "application/x-www-form-urlencoded"

func TestParseRequestRefusesBadInput(t *testing.T) {
	long := strings.Repeat("x", 101)
	for _, test := range []struct {
		name, method, target, contentType, body string
		status                                  int
		message                                 string // a part of it
	}{
		{"no such operation", "GET", "/api/v2/nope", "", "", 404, "Not Found"},
		{"root", "GET", "/", "", "", 404, "Not Found"},
		{"prefix alone", "GET", "/api/v2/", "", "", 404, "Not Found"},
		{"trailing slash", "GET", "/api/v2/select/?c=" + at, "", "", 404, "Not Found"},
		{"double slash", "GET", "//select?c=" + at, "", "", 404, "Not Found"},
		{"dots in the path", "GET", "/api/v2/../select?c=" + at, "", "", 404, "Not Found"},
		{"encoded operation", "GET", "/api/v2/%73elect?c=" + at, "", "", 404, "Not Found"},
		{"worker's own operation", "GET", "/api/v2/download?p=x", "", "", 404, "Not Found"},
		{"worker's own path", "GET", "/stats?c=acme", "", "", 404, "Not Found"},
		{"two segments", "GET", "/api/v2/documents/a/b", "", "", 404, "Not Found"},
		{"encoded slash", "GET", "/api/v2/documents/a%2Fb", "", "", 400, "slash"},
		{"encoded dots", "GET", "/api/v2/documents/%2e%2e", "", "", 400, "dot"},
		{"NUL in the path", "GET", "/api/v2/documents/a%00b", "", "", 400, "control"},
		{"empty document in the path", "GET", "/api/v2/documents/", "", "", 400, "empty"},
		{"p beside the path", "GET", "/api/v2/documents/a?p=b", "", "", 400, "in the path already"},
		{"method", "PUT", "/api/v2/select?c=" + at, "", "", 405, "Method Not Allowed"},
		{"HEAD where GET writes", "HEAD", "/api/v2/insert?s=x&c=" + at, "", "", 405, "Method Not Allowed"},
		{"bad escape in a value", "GET", "/api/v2/select?c=%zz", "", "", 400, "percent-escape"},
		{"bad escape in a name", "GET", "/api/v2/select?%zz=1", "", "", 400, "percent-escape"},
		{"two c", "GET", "/api/v2/select?c=" + at + "&c=" + at, "", "", 400, "given twice"},
		{"two c, one encoded", "GET", "/api/v2/select?c=" + at + "&%63=" + at, "", "", 400, "given twice"},
		{"s and text", "GET", "/api/v2/insert?s=a&text=b&c=" + at, "", "", 400, "given twice"},
		{"too many parameters", "GET", "/api/v2/select?" + manyParameters(33), "", "", 400, "more than 32"},
		{"no coordinate", "GET", "/api/v2/select?p=x", "", "", 400, "c: the coordinate is missing"},
		{"empty coordinate", "GET", "/api/v2/select?c=", "", "", 400, "c: coordinate is empty"},
		{"zero", "GET", "/api/v2/select?c=1.1.1/1.1.1/1.1.0", "", "", 400, "scroll must be 1 to 65535"},
		{"65536", "GET", "/api/v2/select?c=65536.1.1/1.1.1/1.1.1", "", "", 400, "library must be 1 to 65535"},
		{"another tenant's prefix", "GET", "/api/v2/select?c=bravo." + at, "", "", 400, "'b' where the library"},
		{"prefix where c is not used", "GET", "/api/v2/toc?c=bravo." + at, "", "", 400, "'b' where the library"},
		{"document with a slash", "GET", "/api/v2/toc?p=a../b", "", "", 400, "dots"},
		{"document with an encoded slash", "GET", "/api/v2/toc?p=a%2Fb", "", "", 400, "slash"},
		{"hidden document", "GET", "/api/v2/toc?p=.sq", "", "", 400, "begins with a dot"},
		{"absolute document", "GET", "/api/v2/toc?p=/etc/passwd", "", "", 400, "slash"},
		{"document where p is not used", "GET", "/api/v2/version?p=/etc/passwd", "", "", 400, "slash"},
		{"document of 201 bytes", "GET", "/api/v2/toc?p=" + strings.Repeat("x", 201), "", "", 400, "201 bytes"},
		{"document not UTF-8", "GET", "/api/v2/toc?p=%ff", "", "", 400, "UTF-8"},
		{"text not UTF-8", "GET", "/api/v2/insert?s=%ff&c=" + at, "", "", 400, "s: not valid UTF-8"},
		{"text too large", "POST", "/api/v2/insert?c=" + at, "", long, 413, "larger than 100 bytes"},
		{"form text too large", "POST", "/api/v2/insert", form, "c=" + at + "&s=" + long, 413, "larger than 100 bytes"},
		{"form too large", "POST", "/api/v2/insert", form, strings.Repeat("x", 5000), 413, "larger than 100 bytes"},
		{"document too large", "PUT", "/api/v2/documents/x", "", long + long, 413, "larger than 200 bytes"},
		{"two c in a form", "POST", "/api/v2/insert", form, "c=" + at + "&c=" + at, 400, "form: a parameter is given twice"},
		{"form and query", "POST", "/api/v2/insert?s=x", form, "c=" + at + "&s=y", 400, "given twice"},
		{"form without coordinate", "POST", "/api/v2/insert", form, "p=x&s=y", 400, "coordinate is missing"},
		{"bad escape in a form", "POST", "/api/v2/insert", form, "c=%zz", 400, "form: bad percent-escape"},
		{"raw body without coordinate", "POST", "/api/v2/insert", "text/plain", "hello", 400, "coordinate is missing"},
		{"unknown algorithm", "POST", "/api/v2/where?p=x&algo=md5", "", "x", 400, "algo"},
		{"bad limit", "POST", "/api/v2/where?p=x&limit=-1", "", "x", 400, "limit"},
		{"limit with a sign", "POST", "/api/v2/where?p=x&limit=%2B1", "", "x", 400, "limit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, werr := parseRequest(newRequest(test.method, test.target, test.contentType, test.body), testLimit)
			if werr == nil {
				t.Fatal("the request was accepted")
			}
			if werr.Status != test.status || !strings.Contains(werr.Message, test.message) {
				t.Errorf("got %d %q, want %d with %q", werr.Status, werr.Message, test.status, test.message)
			}
			if werr.Status == 405 && werr.Allow == "" {
				t.Error("405 without Allow")
			}
		})
	}
}

func manyParameters(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("&x")
		b.WriteByte(byte('A' + i))
	}
	return b.String()
}

func TestParseRequest(t *testing.T) {
	for _, test := range []struct {
		name, method, target, contentType, body string
		op                                      wire.Op
		document, coordinate, text              string
	}{
		{"select", "GET", "/api/v2/select?p=notes&c=" + at, "", "", wire.Select, "notes", at, ""},
		{"alias", "GET", "/select?p=notes&c=" + at, "", "", wire.Select, "notes", at, ""},
		{"default document", "GET", "/api/v2/select?c=" + at, "", "", wire.Select, "default", at, ""},
		{"empty document", "GET", "/api/v2/select?p=&c=" + at, "", "", wire.Select, "default", at, ""},
		{"semicolons", "GET", "/api/v2/select?c=1.1.1;1.1.1;1.1.2", "", "", wire.Select, "default", "1.1.1/1.1.1/1.1.2", ""},
		{"encoded slashes", "GET", "/api/v2/select?c=1.1.1%2F1.1.1%2F1.1.2", "", "", wire.Select, "default", "1.1.1/1.1.1/1.1.2", ""},
		{"leading zeros", "GET", "/api/v2/select?c=01.1.1/1.1.1/1.1.2", "", "", wire.Select, "default", "1.1.1/1.1.1/1.1.2", ""},
		{"HEAD", "HEAD", "/api/v2/select?c=" + at, "", "", wire.Select, "default", at, ""},
		{"unknown parameters are ignored", "GET", "/api/v2/select?token=x&c=" + at, "", "", wire.Select, "default", at, ""},
		{"insert by GET", "GET", "/api/v2/insert?s=+world%21&c=" + at, "", "ignored", wire.Insert, "default", at, " world!"},
		{"body", "POST", "/api/v2/insert?c=" + at, "", "hello", wire.Insert, "default", at, "hello"},
		{"body that claims to be a form", "POST", "/api/v2/insert?c=" + at, form, "s=hello", wire.Insert, "default", at, "s=hello"},
		{"body wins over s", "POST", "/api/v2/update?s=query&c=" + at, "", "body", wire.Update, "default", at, "body"},
		{"s where the body is empty", "POST", "/api/v2/update?s=query&c=" + at, "", "", wire.Update, "default", at, "query"},
		{"content alias", "POST", "/api/v2/update?content=query&c=" + at, "", "", wire.Update, "default", at, "query"},
		{"form", "POST", "/insert", form + "; charset=utf-8", "p=test&c=" + at + "&text=Secret A", wire.Insert, "test", at, "Secret A"},
		{"delete by form", "POST", "/delete", form, "p=test&c=" + at, wire.Delete, "test", at, ""},
		{"PUT", "PUT", "/update?c=" + at, "", "hello", wire.Update, "default", at, "hello"},
		{"DELETE", "DELETE", "/delete?c=" + at, "", "", wire.Delete, "default", at, ""},
		{"load without coordinate", "GET", "/load?p=x", "", "", wire.Load, "x", "", ""},
		{"unused coordinate", "GET", "/toc?p=x&c=" + at, "", "", wire.TOC, "x", "", ""},
		{"documents", "GET", "/api/v2/documents", "", "", wire.Documents, "", "", ""},
		{"download", "GET", "/api/v2/documents/the%20odyssey", "", "", wire.Download, "the odyssey", "", ""},
		{"replace", "PUT", "/api/v2/documents/x?s=ignored", "", "a\x17b", wire.Replace, "x", "", "a\x17b"},
		{"replace with nothing", "PUT", "/api/v2/documents/x?s=ignored", "", "", wire.Replace, "x", "", ""},
		{"replace whatever it claims to be", "PUT", "/api/v2/documents/x", form, "a=b", wire.Replace, "x", "", "a=b"},
		{"remove", "DELETE", "/api/v2/documents/x", "", "", wire.Remove, "x", "", ""},
		{"raw UTF-8 in the query", "GET", "/update?s=naïve&c=" + at, "", "", wire.Update, "default", at, "naïve"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, chunked := range []bool{false, true} {
				r := newRequest(test.method, test.target, test.contentType, test.body)
				if chunked {
					r.ContentLength = -1
				}
				req, werr := parseRequest(r, testLimit)
				if werr != nil {
					t.Fatalf("refused: %v", werr)
				}
				coordinate, text := "", ""
				if req.address.HasCoordinate {
					coordinate = req.address.Coordinate.String()
				}
				if req.body != nil {
					b, err := io.ReadAll(req.body)
					if err != nil {
						t.Fatal(err)
					}
					text = string(b)
				}
				if req.op != test.op || req.document != test.document || coordinate != test.coordinate || text != test.text {
					t.Errorf("chunked %v: got %s %q %q %q, want %s %q %q %q", chunked, req.op, req.document, coordinate, text, test.op, test.document, test.coordinate, test.text)
				}
			}
		})
	}
}

func TestChunkedBodyBeyondTheLimitFailsInsteadOfEnding(t *testing.T) {
	for size, ok := range map[int]bool{99: true, 100: true, 101: false, 100_000: false} {
		r := newRequest("POST", "/insert?c="+at, "", strings.Repeat("x", size))
		r.ContentLength = -1
		req, werr := parseRequest(r, testLimit)
		if werr != nil {
			t.Fatal(werr)
		}
		b, err := io.ReadAll(req.body)
		if (err == nil) != ok || len(b) > 100 {
			t.Errorf("%d bytes: read %d, error %v", size, len(b), err)
		}
	}
}

// FuzzParseRequest checks that whatever a client sends, what comes out of the
// parser is safe to build a worker's request from.
func FuzzParseRequest(f *testing.F) {
	for _, seed := range [][4]string{
		{"GET", "/api/v2/select?p=notes&c=" + at, "", ""},
		{"POST", "/insert", form, "p=test&c=" + at + "&text=Secret A"},
		{"PUT", "/api/v2/documents/a%20b", "text/plain", "a\x17b"},
		{"POST", "/where?p=x&algo=xor&limit=3", "", "abc"},
		{"GET", "/toc?p=%2e%2e%2fb&c=1.1.1;1.1.1;1.1.1", "", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, method, target, contentType, body string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(target, "/") {
			return
		}
		r := &http.Request{Method: method, URL: u, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
		req, werr := parseRequest(r, testLimit)
		if werr != nil {
			if werr.Status < 400 || werr.Status > 499 || !utf8.ValidString(werr.Message) {
				t.Fatalf("refused with %d %q", werr.Status, werr.Message)
			}
			return
		}
		rule, ok := wire.Rules[req.op]
		if !ok || rule.Document && wire.CheckDocument(req.document) != nil || rule.Coordinate == wire.Required && !req.address.HasCoordinate {
			t.Fatalf("accepted %+v", req)
		}
		req.address.Tenant = "acme"
		up := req.upstream(r, 0)
		asked, err := url.ParseRequestURI(up.Target)
		if err != nil || asked.Path != "/"+string(req.op) {
			t.Fatalf("the worker would be asked for %q (%v)", up.Target, err)
		}
		query, err := url.ParseQuery(asked.RawQuery)
		if err != nil {
			t.Fatal(err)
		}
		address, err := wire.ParseAddress(query.Get("c"))
		if err != nil || address != req.address || len(query["c"]) != 1 || len(query["p"]) > 1 || query.Get("p") != req.document {
			t.Fatalf("the worker would read %v from %+v (%v)", query, req, err)
		}
		for _, n := range address.Coordinate {
			if address.HasCoordinate && (n < 1 || n > phext.Max) {
				t.Fatalf("coordinate %v", address.Coordinate)
			}
		}
	})
}

func TestIdempotencyKey(t *testing.T) {
	for _, test := range []struct {
		name, method, target string
		lines                []string
		message              string // a part of it
	}{
		{"empty", "POST", "/insert?c=" + at, []string{""}, "header Idempotency-Key: it has 0 characters"},
		{"two lines", "POST", "/insert?c=" + at, []string{"a", "a"}, "given twice"},
		{"space", "PUT", "/update?c=" + at, []string{"a b"}, "byte 2"},
		{"open quote", "DELETE", "/delete?c=" + at, []string{`"a`}, "closing quote"},
		{"too long", "PUT", "/api/v2/documents/a", []string{strings.Repeat("k", 256)}, "256 characters"},
		{"GET that writes", "GET", "/insert?s=x&c=" + at, []string{"a,b"}, "byte 2"},
		{"removal", "DELETE", "/api/v2/documents/a", []string{"\x7f"}, "byte 1"},
	} {
		r := newRequest(test.method, test.target, "", "text")
		r.Header["Idempotency-Key"] = test.lines
		if _, werr := parseRequest(r, testLimit); werr == nil || werr.Status != 400 || !strings.Contains(werr.Message, test.message) {
			t.Errorf("%s: %v, want 400 with %q", test.name, werr, test.message)
		}
	}
	for _, test := range []struct{ method, target, want string }{
		{"POST", "/insert?c=" + at, `"a \"key\""`},
		{"GET", "/insert?s=x&c=" + at, `"a \"key\""`},
		{"PUT", "/update?c=" + at, `"a \"key\""`},
		{"DELETE", "/delete?c=" + at, `"a \"key\""`},
		{"PUT", "/api/v2/documents/a", `"a \"key\""`},
		{"DELETE", "/api/v2/documents/a", `"a \"key\""`},
		{"GET", "/select?c=" + at, ""},
		{"POST", "/delta", ""},
		{"GET", "/api/v2/documents/a", ""},
	} {
		r := newRequest(test.method, test.target, "", "text")
		r.Header["Idempotency-Key"] = []string{`"a \"key\""`}
		req, werr := parseRequest(r, testLimit)
		if werr != nil {
			t.Fatalf("%s %s: %v", test.method, test.target, werr)
		}
		var got string
		for _, field := range req.upstream(r, 0).Header {
			if field.Name == wire.HeaderKey {
				got += field.Value[0]
			}
		}
		if got != test.want {
			t.Errorf("%s %s goes on with key %q, want %q", test.method, test.target, got, test.want)
		}
	}
	for _, method := range []string{"GET", "HEAD"} { // a read ignores what it cannot mean
		r := newRequest(method, "/select?c="+at, "", "")
		r.Header["Idempotency-Key"] = []string{"a b", ""}
		if _, werr := parseRequest(r, testLimit); werr != nil {
			t.Errorf("%s of a scroll with a malformed key: %v", method, werr)
		}
	}
}
