package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// MustPlace puts a document into a data directory as a person would: beside
// its name first, then over it.
func MustPlace(t *testing.T, dir, document, text string) {
	t.Helper()
	temp := filepath.Join(dir, "placed.tmp")
	if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, filepath.Join(dir, document+".phext")); err != nil {
		t.Fatal(err)
	}
}

// MustRefuse fails unless the answer is this error, in one line without a path.
func (w *worker) MustRefuse(t *testing.T, method, target, body string, status int, want string, header ...string) *http.Response {
	t.Helper()
	resp, got := w.MustDo(t, method, target, body, header...)
	if resp.StatusCode != status || !strings.Contains(got, want) {
		t.Fatalf("%s %s: %d %s, want %d with %q", method, target, resp.StatusCode, clip(got), status, want)
	}
	if strings.Contains(got, w.dir) || strings.Contains(got, "\n") {
		t.Errorf("%s %s: the answer is no single line without a path: %s", method, target, clip(got))
	}
	return resp
}

func TestQuota(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	const at3 = "p=notes&c=acme.1.1.1/1.1.1/1.1.3"
	w.MustAnswer(t, "POST", "/update?"+at3, "12345", "Updated 5 bytes") // and two breaks
	w.MustRefuse(t, "POST", "/insert?"+at3, "6789", 507, "7 of 10 bytes are used and this write needs 4 more", "SQ-Quota", "10")
	w.MustRefuse(t, "POST", "/update?p=other&c=acme."+origin, "1234", 507, "7 of 10 bytes are used and this write needs 4 more", "SQ-Quota", "10")
	w.MustRefuse(t, "POST", "/replace?p=other&c=acme", "1234", 507, "7 of 10 bytes are used and this write needs 4 more", "SQ-Quota", "10")
	w.MustAnswer(t, "GET", "/get?"+whole, "", "\x17\x1712345")

	resp, body := w.MustDo(t, "POST", "/insert?"+at3, "678", "SQ-Quota", "10")
	if resp.StatusCode != 200 || body != "Inserted 3 bytes" {
		t.Errorf("a write up to the quota's last byte: %d %q", resp.StatusCode, body)
	}
	resp, body = w.MustDo(t, "POST", "/update?"+at3, "1", "SQ-Quota", "5")
	if resp.StatusCode != 200 || body != "Updated 1 bytes" {
		t.Errorf("a write that frees space beyond the quota: %d %q", resp.StatusCode, body)
	}
	w.MustAnswer(t, "GET", "/get?"+whole, "", "\x17\x171")
}

// TestBrokenDocuments serves a tenant's good documents beside bad ones.
func TestBrokenDocuments(t *testing.T) {
	dir := t.TempDir()
	MustPlace(t, dir, "latin", "caf\xe9")
	MustPlace(t, dir, "beyond", strings.Repeat("\x19", 65535)+"x")
	MustPlace(t, dir, "good", "text")
	w := MustServe(t, dir, testTenant)
	for _, tt := range []struct{ document, want string }{
		{"latin", `document "latin" cannot be served: invalid UTF-8 at byte 3`},
		{"beyond", `document "beyond" cannot be served: a chapter number beyond 65535 at byte 65534`},
	} {
		for _, op := range []string{"get", "toc", "status", "checksum", "json-export", "download", "load"} {
			w.MustRefuse(t, "GET", "/"+op+"?c=acme&p="+tt.document, "", 503, tt.want)
		}
		for _, op := range []string{"insert", "update", "delete"} {
			w.MustRefuse(t, "POST", "/"+op+"?c=acme."+origin+"&p="+tt.document, "x", 503, tt.want)
		}
		w.MustRefuse(t, "GET", "/select?c=acme."+origin+"&p="+tt.document, "", 503, tt.want)
		resp, body := w.MustDo(t, "POST", "/delta?c=acme&p="+tt.document, "")
		if resp.StatusCode != 503 || body != "" || resp.Header.Get("SQ-Error") != tt.want {
			t.Errorf("delta: %d %q %q", resp.StatusCode, body, resp.Header.Get("SQ-Error"))
		}
	}
	w.MustAnswer(t, "GET", "/get?c=acme&p=good", "", "text")
	w.MustAnswer(t, "POST", "/insert?c=acme."+origin+"&p=good", "!", "Inserted 1 bytes")

	var list []wire.Document
	_, body := w.MustDo(t, "GET", "/documents?c=acme", "", "Accept", "application/json")
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) != 3 {
		t.Fatalf("documents: %v in %q", err, body)
	}
	for i, want := range []wire.Document{
		{Name: "beyond", Error: "a chapter number beyond 65535 at byte 65534"},
		{Name: "good", Bytes: 5, Scrolls: 1},
		{Name: "latin", Error: "invalid UTF-8 at byte 3"},
	} {
		got := list[i]
		if want.Error != "" {
			got.Bytes = want.Bytes // unread, so what the file has
		}
		if got.Modified = ""; got != want {
			t.Errorf("document %d is %+v, want %+v", i, got, want)
		}
	}
	if list := w.MustGet(t, "/documents?c=acme"); !strings.HasSuffix(list, "\tinvalid UTF-8 at byte 3\n") {
		t.Errorf("documents: %q", list)
	}

	// A good file over a bad one heals it.
	MustPlace(t, dir, "latin", "café")
	w.MustAnswer(t, "GET", "/load?c=acme&p=latin", "", "Loaded latin.phext")
	w.MustAnswer(t, "GET", "/get?c=acme&p=latin", "", "café")
}

// TestEditedByHand changes a document's file under the worker.
func TestEditedByHand(t *testing.T) {
	dir := t.TempDir()
	MustPlace(t, dir, "notes", "one\x17two")
	w := MustServe(t, dir, testTenant)
	w.MustAnswer(t, "GET", "/get?"+whole, "", "one\x17two")
	MustPlace(t, dir, "notes", "edited by hand")
	w.MustRefuse(t, "POST", "/insert?"+good, "x", 409, "load the document")
	w.MustAnswer(t, "GET", "/load?"+whole, "", "Loaded notes.phext")
	w.MustAnswer(t, "GET", "/get?"+whole, "", "edited by hand")
	w.MustAnswer(t, "POST", "/insert?"+good, "!", "Inserted 1 bytes")
	w.MustAnswer(t, "GET", "/get?"+whole, "", "edited by hand!")
}

func TestClosedEngine(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	w.MustAnswer(t, "POST", "/update?"+good, "text", "Updated 4 bytes")
	if err := w.engine.Close(); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/insert?" + good, "/replace?" + whole} {
		if resp := w.MustRefuse(t, "POST", target, "x", 503, "try again"); resp.Header.Get("Retry-After") != "1" {
			t.Errorf("%s: Retry-After %q, want 1", target, resp.Header.Get("Retry-After"))
		}
	}
	w.MustRefuse(t, "GET", "/get?"+whole, "", 503, "try again")
	w.MustAnswer(t, "GET", "/version?c=acme", "", testVersion)
}

// lines is the body of every scroll of long.
var lines = strings.Repeat("all work and no play\n", 2000)

// long is a document larger than all buffers between worker and client.
func long() string {
	var b strings.Builder
	for i := range 300 {
		fmt.Fprintf(&b, "scroll %d\n%s\x17", i+1, lines)
	}
	return b.String()
}

// TestSlowReader wants a reader that takes its time to see its own moment of
// the document and to hold up nobody.
func TestSlowReader(t *testing.T) {
	dir := t.TempDir()
	text := long()
	MustPlace(t, dir, "notes", text)
	w := MustServe(t, dir, testTenant)
	for _, tt := range []struct {
		op      string
		removed int // what there is to delete: the last scroll, and then nothing
	}{{"get", len("scroll 300\n" + lines)}, {"json-export", 0}} {
		op := tt.op
		before := w.MustGet(t, "/"+op+"?"+whole)
		resp, err := w.client.Do(MustRequest(t, "GET", "/"+op+"?"+whole, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		// Nothing of the body is read yet, and most of it is not sent.
		w.MustAnswer(t, "POST", "/update?"+good, op, fmt.Sprintf("Updated %d bytes", len(op)))
		w.MustAnswer(t, "POST", "/delete?p=notes&c=acme.1.1.1/1.1.1/1.1.300", "", fmt.Sprintf("Removed %d bytes", tt.removed))
		w.MustAnswer(t, "GET", "/select?"+good, "", op)
		w.MustAnswer(t, "GET", "/load?"+whole, "", "Loaded notes.phext")
		got, err := io.ReadAll(resp.Body)
		if err != nil || string(got) != before {
			t.Errorf("%s: the slow reader got %d bytes, %v, that are not those of when it began", op, len(got), err)
		}
	}
}

// TestTruncatedUnderTheWorker cuts a document's file short in place while it is
// mapped: reads of it fail, and nothing else does.
func TestTruncatedUnderTheWorker(t *testing.T) {
	dir := t.TempDir()
	text := long()
	MustPlace(t, dir, "notes", text)
	MustPlace(t, dir, "other", "unharmed")
	w := MustServe(t, dir, testTenant)
	w.MustAnswer(t, "GET", "/select?"+good, "", "scroll 1\n"+lines)

	resp, err := w.client.Do(MustRequest(t, "GET", "/get?"+whole, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := os.Truncate(filepath.Join(dir, "notes.phext"), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an answer that was cut short ended with %v after %d of %d bytes", err, len(got), len(text))
	}

	for range 2 { // the second time finds what the first left behind
		for _, tt := range []struct{ method, target, body string }{
			{"GET", "/get?" + whole, ""},
			{"GET", "/download?" + whole, ""},
			{"GET", "/checksum?" + whole, ""},
			{"GET", "/toc?" + whole, ""},
			{"GET", "/json-export?" + whole, ""},
			{"POST", "/delta?" + whole, ""},
			{"GET", "/select?p=notes&c=acme.1.1.1/1.1.1/1.1.300", ""},
			{"POST", "/insert?p=notes&c=acme.1.1.1/1.1.1/1.1.300", "x"},
		} {
			resp, err := w.client.Do(MustRequest(t, tt.method, tt.target, strings.NewReader(tt.body)))
			if err != nil {
				continue // cut before the header was out
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(got) == phext.Checksum([]byte(text)) {
				continue // known from when the file was opened, and still what the document was
			}
			if err == nil && resp.StatusCode == http.StatusOK {
				t.Errorf("%s %s: 200 with %d bytes: %s", tt.method, tt.target, len(got), clip(string(got)))
			}
			if strings.Contains(string(got), dir) {
				t.Errorf("%s %s: the answer holds a path: %s", tt.method, tt.target, clip(string(got)))
			}
		}
		w.MustAnswer(t, "GET", "/get?p=other&c=acme", "", "unharmed")
	}
}
