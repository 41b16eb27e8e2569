package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

// TestOperationsAreComplete holds the table of functions to the contract.
func TestOperationsAreComplete(t *testing.T) {
	for op := range wire.Rules {
		if operations[op] == nil {
			t.Errorf("operation %s has no function", op)
		}
	}
	for op := range operations {
		if _, ok := rule(op); !ok {
			t.Errorf("%s has a function and no rule", op)
		}
	}
}

const (
	origin = "1.1.1/1.1.1/1.1.1"
	good   = "c=acme." + origin + "&p=notes" // of an operation on a scroll
	whole  = "c=acme&p=notes"                // of one on a document
)

// TestBadRequests sends what the edge never would.
func TestBadRequests(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	for _, tt := range []struct {
		name, method, target, body string
		header                     []string
		status                     int
		want                       string
	}{
		{"no operation", "GET", "/", "", nil, 404, "no such operation"},
		{"unknown operation", "GET", "/nope?" + good, "", nil, 404, "no such operation"},
		{"public path", "GET", "/api/v2/toc?" + whole, "", nil, 404, "no such operation"},
		{"operation in capitals", "GET", "/TOC?" + whole, "", nil, 404, "no such operation"},
		{"path below an operation", "GET", "/toc/notes?" + whole, "", nil, 404, "no such operation"},
		{"two slashes", "GET", "//toc?" + whole, "", nil, 404, "no such operation"},
		{"dots", "GET", "/../toc?" + whole, "", nil, 404, "no such operation"},

		{"insert by GET", "GET", "/insert?" + good, "", nil, 405, "use POST"},
		{"update by PUT", "PUT", "/update?" + good, "x", nil, 405, "use POST"},
		{"delete by DELETE", "DELETE", "/delete?" + good, "", nil, 405, "use POST"},
		{"select by POST", "POST", "/select?" + good, "", nil, 405, "use GET, HEAD"},
		{"delta by GET", "GET", "/delta?" + whole, "", nil, 405, ""}, // TestDeltaFailsWithoutABody
		{"stats by POST", "POST", "/stats?c=acme", "", nil, 405, "use GET, HEAD"},
		{"TRACE", "TRACE", "/toc?" + whole, "", nil, 405, "use GET, HEAD"},

		{"bad percent-escape", "GET", "/toc?p=%zz&c=acme", "", nil, 400, "query is malformed"},
		{"semicolon between parameters", "GET", "/toc?p=notes;c=acme", "", nil, 400, "query is malformed"},
		{"unknown parameter", "GET", "/toc?" + whole + "&x=1", "", nil, 400, `unknown query parameter "x"`},
		{"text in the query", "POST", "/update?" + good + "&s=x", "", nil, 400, `unknown query parameter "s"`},
		{"algo outside where", "GET", "/toc?" + whole + "&algo=xor", "", nil, 400, `unknown query parameter "algo"`},
		{"document where there is none", "GET", "/documents?" + whole, "", nil, 400, `unknown query parameter "p"`},
		{"two addresses", "GET", "/toc?" + whole + "&c=acme", "", nil, 400, `"c" is given 2 times`},
		{"two addresses, one foreign", "GET", "/select?" + good + "&c=beta." + origin, "", nil, 400, `"c" is given 2 times`},
		{"two documents", "GET", "/toc?" + whole + "&p=other", "", nil, 400, `"p" is given 2 times`},

		{"no address", "GET", "/toc?p=notes", "", nil, 400, "names no tenant"},
		{"no address for version", "GET", "/version", "", nil, 400, "names no tenant"},
		{"no address for stats", "GET", "/stats", "", nil, 400, "names no tenant"},
		{"coordinate without tenant", "GET", "/select?p=notes&c=" + origin, "", nil, 400, "bad address"},
		{"zero", "GET", "/select?p=notes&c=acme.0.1.1/1.1.1/1.1.1", "", nil, 400, "library must be 1 to 65535"},
		{"65536", "GET", "/select?p=notes&c=acme.1.1.1/1.1.1/1.1.65536", "", nil, 400, "scroll must be 1 to 65535"},
		{"two tenants", "GET", "/select?p=notes&c=acme.acme." + origin, "", nil, 400, "'a' where the library"},
		{"space in the coordinate", "GET", "/select?p=notes&c=acme.1.1.1/1.1.1/1.1.1+", "", nil, 400, "' ' after the ninth"},

		{"select without coordinate", "GET", "/select?" + whole, "", nil, 400, "select needs a coordinate"},
		{"insert without coordinate", "POST", "/insert?" + whole, "x", nil, 400, "insert needs a coordinate"},
		{"toc with a coordinate", "GET", "/toc?" + good, "", nil, 400, "toc takes no coordinate"},
		{"remove with a coordinate", "POST", "/remove?" + good, "", nil, 400, "remove takes no coordinate"},
		{"stats with a coordinate", "GET", "/stats?c=acme." + origin, "", nil, 400, "stats takes no coordinate"},

		{"no document", "GET", "/toc?c=acme", "", nil, 400, "document name is empty"},
		{"hidden document", "GET", "/get?c=acme&p=.sq", "", nil, 400, "begins with a dot"},
		{"parent folder", "GET", "/get?c=acme&p=..%2Fbeta%2Fnotes", "", nil, 400, "begins with a dot"},
		{"folder", "GET", "/get?c=acme&p=a/b", "", nil, 400, "slash"},
		{"NUL", "GET", "/get?c=acme&p=a%00b", "", nil, 400, "control character"},
		{"invalid UTF-8 name", "GET", "/get?c=acme&p=%ff", "", nil, 400, "not valid UTF-8"},
		{"long name", "GET", "/get?c=acme&p=" + strings.Repeat("x", 201), "", nil, 400, "201 bytes"},

		{"no quota", "POST", "/insert?" + good, "x", []string{"SQ-Quota", ""}, 400, "needs one SQ-Quota header"},
		{"no quota on delete", "POST", "/delete?" + good, "", []string{"SQ-Quota", ""}, 400, "needs one SQ-Quota header"},
		{"negative quota", "POST", "/insert?" + good, "x", []string{"SQ-Quota", "-1"}, 400, "not a number"},
		{"quota with a sign", "POST", "/insert?" + good, "x", []string{"SQ-Quota", "+1"}, 400, "not a number"},
		{"quota beyond 63 bits", "POST", "/insert?" + good, "x", []string{"SQ-Quota", "9223372036854775808"}, 400, "not a number"},

		{"unknown algo", "POST", "/where?" + whole + "&algo=md5", "x", nil, 400, "use xor or checksum"},
		{"empty algo", "POST", "/where?" + whole + "&algo=", "x", nil, 400, "use xor or checksum"},
		{"limit in words", "POST", "/where?" + whole + "&limit=many", "x", nil, 400, "limit must be"},
		{"negative limit", "POST", "/where?" + whole + "&limit=-1", "x", nil, 400, "limit must be"},
		{"limit too large", "POST", "/where?" + whole + "&limit=2147483648", "x", nil, 400, "limit must be"},
		{"empty limit", "POST", "/where?" + whole + "&limit=&algo=checksum", "x", nil, 400, "limit must be"},

		{"insert of invalid UTF-8", "POST", "/insert?" + good, "日\xffx", nil, 400, "invalid UTF-8 at byte 3"},
		{"update of a cut character", "POST", "/update?" + good, "abc\xe6\x97", nil, 400, "invalid UTF-8 at byte 3"},
		{"where of invalid UTF-8", "POST", "/where?" + whole, "\x80", nil, 400, "invalid UTF-8 at byte 0"},
		{"replace by invalid UTF-8", "POST", "/replace?" + whole, "one\x17\xc0\xaf", nil, 400, "invalid UTF-8 at byte 4"},
		{"insert of a scroll break", "POST", "/insert?" + good, "ab\x17c", nil, 400, "break byte 0x17 at byte 2"},
		{"update with a library break", "POST", "/update?" + good, "\x01", nil, 400, "break byte 0x01 at byte 0"},
		{"replace beyond 65535", "POST", "/replace?" + whole, strings.Repeat("\x19", 65535), nil, 400, "chapter number beyond 65535 at byte 65534"},
		{"where beyond 65535", "POST", "/where?" + whole, strings.Repeat("\x18", 65535) + "x", nil, 400, "section number beyond 65535 at byte 65534"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, got := w.MustDo(t, tt.method, tt.target, tt.body, tt.header...)
			if resp.StatusCode != tt.status || !strings.Contains(got, tt.want) {
				t.Errorf("%s %s: %d %q, want %d with %q", tt.method, tt.target, resp.StatusCode, got, tt.status, tt.want)
			}
			if tt.status == 405 && tt.want != "" && !strings.Contains(tt.want, resp.Header.Get("Allow")) {
				t.Errorf("Allow %q", resp.Header.Get("Allow"))
			}
			if strings.Contains(got, "\n") || strings.Contains(got, w.dir) {
				t.Errorf("answer %q is no single line free of paths", got)
			}
		})
	}
	if got := w.MustMisdirected(t); got != 0 {
		t.Errorf("%v requests were counted as another tenant's", got)
	}
	w.MustAnswer(t, "GET", "/documents?c=acme", "", "")
}

// TestOtherTenant holds the worker to its own tenant for every operation.
func TestOtherTenant(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	w.MustAnswer(t, "POST", "/update?"+good, "canary", "Updated 6 bytes")
	before := w.MustGet(t, "/get?"+whole)

	var sent uint64
	for op := range operations {
		r, _ := rule(op)
		for _, tenant := range []string{"beta", "ACME", "acme2", "acm", "acme%00", "%20acme", "acme%20", "*"} {
			target := "/" + string(op) + "?c=" + tenant
			if r.Coordinate == wire.Required {
				target += "." + origin
			}
			if r.Document {
				target += "&p=notes"
			}
			resp, got := w.MustDo(t, r.Method(), target, "foreign")
			if sent++; resp.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("%s: %d %q, want 421", target, resp.StatusCode, got)
			}
			if strings.Contains(got, "canary") || strings.Contains(got, testTenant) {
				t.Errorf("%s: the answer tells of the tenant: %q", target, got)
			}
		}
	}
	if got := w.MustMisdirected(t); got != sent {
		t.Errorf("counted %v misdirected requests of %v", got, sent)
	}
	if got := w.logs.FilterLevelExact(zap.ErrorLevel).Len(); got != int(sent) {
		t.Errorf("logged %d misdirected requests of %v", got, sent)
	}
	if after := w.MustGet(t, "/get?"+whole); after != before {
		t.Errorf("the document changed from %q to %q", before, after)
	}
}

// TestReadsCreateNothing asks for a document that is not there in every way.
func TestReadsCreateNothing(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	for op, r := range wire.Rules {
		if r.Write {
			continue
		}
		target := "/" + string(op) + "?c=acme"
		if r.Coordinate == wire.Required {
			target += "." + origin
		}
		if r.Document {
			target += "&p=notes"
		}
		want := http.StatusOK
		if op == wire.Download {
			want = http.StatusNotFound
		}
		if resp, got := w.MustDo(t, r.Method(), target, ""); resp.StatusCode != want {
			t.Errorf("%s: %d %q, want %d", target, resp.StatusCode, got, want)
		}
	}
	w.MustAnswer(t, "GET", "/documents?c=acme", "", "")
	w.stop()
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), wire.DocumentExt) {
			t.Errorf("reading created %s", e.Name())
		}
	}
}

func TestProblemJSON(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	resp, body := w.MustDo(t, "POST", "/insert?"+good, "a\x17", "Accept", "application/json")
	var problem struct {
		Status int
		Detail string
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	if resp.Header.Get("Content-Type") != "application/problem+json" || problem.Status != 400 || !strings.Contains(problem.Detail, "0x17 at byte 1") {
		t.Errorf("%s %+v", resp.Header.Get("Content-Type"), problem)
	}
}

// TestDeltaFailsWithoutABody covers the editor that merges any body it gets.
func TestDeltaFailsWithoutABody(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	w.MustAnswer(t, "POST", "/update?"+good, "text", "Updated 4 bytes")
	for _, tt := range []struct {
		name, target, body string
		status             int
		want               string
	}{
		{"no colon", "/delta?" + whole, "1.1.1/1.1.1/1.1.1 abc", 400, "line 1 is not"},
		{"no hash", "/delta?" + whole, "\n" + origin + ": \n", 400, "line 2 is not"},
		{"only a colon", "/delta?" + whole, ":", 400, "line 1 is not"},
		{"no coordinate", "/delta?" + whole, ": abc", 400, "line 1: coordinate is empty"},
		{"bad coordinate", "/delta?" + whole, origin + ": abc\r\n\r\n1.1.1/1.1.1/1.1.0: abc", 400, "line 3: coordinate's scroll must be"},
		{"tenant prefix", "/delta?" + whole, "beta." + origin + ": abc", 400, "'b' where the library"},
		{"invalid UTF-8", "/delta?" + whole, "\xff", 400, "invalid UTF-8 at byte 0"},
		{"bad document", "/delta?c=acme&p=..", "", 400, "begins with a dot"},
		{"name that fits no header", "/delta?" + whole + "&%0A%E6%97%A5=1", "", 400, `unknown query parameter "\n?"`},
		{"another tenant", "/delta?c=beta&p=notes", "", 421, "another tenant"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, accept := range []string{"", "application/json"} {
				resp, got := w.MustDo(t, "POST", tt.target, tt.body, "Accept", accept)
				if resp.StatusCode != tt.status || got != "" {
					t.Errorf("%d %q, want %d without a body", resp.StatusCode, got, tt.status)
				}
				if e := resp.Header.Get(wire.HeaderError); !strings.Contains(e, tt.want) {
					t.Errorf("%s: %q, want it to say %q", wire.HeaderError, e, tt.want)
				}
			}
		})
	}
	resp, _ := w.MustDo(t, "GET", "/delta?"+whole, "")
	if resp.StatusCode != 405 || resp.Header.Get("Allow") != "POST, HEAD" {
		t.Errorf("by GET: %d, Allow %q", resp.StatusCode, resp.Header.Get("Allow"))
	}
}

// never is a body that is announced and does not come.
type never struct{ done chan struct{} }

func (n never) Read([]byte) (int, error) { <-n.done; return 0, io.EOF }

// TestAnnouncedTooLarge wants the refusal before a byte of the body is sent.
func TestAnnouncedTooLarge(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	for target, limit := range map[string]int64{
		"/insert?" + good: wire.MaxText, "/delta?" + whole: wire.MaxText, "/where?" + whole: wire.MaxText, "/replace?" + whole: wire.MaxDocument,
	} {
		body := never{make(chan struct{})}
		req := MustRequest(t, "POST", target, body)
		req.ContentLength = limit + 1
		resp, err := w.client.Do(req)
		close(body.done)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d, want 413", target, resp.StatusCode)
		}
	}
}

// TestTextLimit reads bodies that do not announce their length.
func TestTextLimit(t *testing.T) {
	const limit = 100_000
	read := func(n int) ([]byte, error) {
		r := httptest.NewRequest("POST", "/insert", io.MultiReader(strings.NewReader(strings.Repeat("x", n))))
		if r.ContentLength != -1 {
			t.Fatalf("the body announces %d bytes", r.ContentLength)
		}
		return (&request{Request: r}).text(&answer{ResponseWriter: httptest.NewRecorder()}, limit)
	}
	for _, n := range []int{0, 1, 2, limit} {
		if text, err := read(n); err != nil || !bytes.Equal(text, bytes.Repeat([]byte("x"), n)) {
			t.Errorf("%d bytes: read %d, %v", n, len(text), err)
		}
	}
	_, err := read(limit + 1)
	if e, ok := err.(*wire.Error); !ok || e.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("%d bytes: %v, want a 413", limit+1, err)
	}
}
