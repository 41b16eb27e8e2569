package api

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// TestOperations walks one document through every operation, in order. The
// texts follow the recorded answers of the reference server where there are any.
func TestOperations(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	at := func(op, coordinate string) string { return "/" + op + "?p=notes&c=acme." + coordinate }
	of := func(op string) string { return "/" + op + "?p=notes&c=acme" }
	const (
		second = "1.1.1/1.1.1/1.1.2"
		year   = "1.1.1/1.1.1/1981.2.1"
	)
	stored := "hello world!\nline two\x17second" + strings.Repeat("\x19", 1980) + "\x18a day"
	for _, step := range []struct{ method, target, body, want string }{
		{"GET", "/version?c=acme", "", testVersion},
		{"GET", "/documents?c=acme", "", ""},
		{"GET", at("select", origin), "", ""},
		{"GET", of("get"), "", ""},
		{"GET", of("toc"), "", ""},
		{"GET", of("json-export"), "", "[]\n"},
		{"GET", of("load"), "", "Loaded notes.phext"},
		{"GET", of("status"), "", "Hosting: notes.phext\nPhext Size: 0\nScrolls: 0"},
		{"GET", of("checksum"), "", phext.Checksum(nil)},
		{"POST", at("delete", origin), "", "Removed 0 bytes"},

		{"POST", at("insert", origin), "hello", "Inserted 5 bytes"},
		{"POST", at("insert", origin), " world!", "Inserted 7 bytes"},
		{"POST", at("insert", origin), "\nline two", "Inserted 9 bytes"},
		{"POST", at("insert", origin), "", "Inserted 0 bytes"},
		{"GET", at("select", origin), "", "hello world!\nline two"},
		{"GET", at("load", origin), "", "hello world!\nline two"},
		{"POST", at("update", second), "first", "Updated 5 bytes"},
		{"POST", at("update", second), "second", "Updated 6 bytes"},
		{"POST", at("update", year), "a day", "Updated 5 bytes"},
		{"GET", at("select", "1.1.1%3B1.1.1%3B1.1.2"), "", "second"},
		{"GET", of("get"), "", stored},
		{"GET", of("download"), "", stored},
		{"GET", of("load"), "", "Loaded notes.phext"},
		{"GET", of("get"), "", stored},
		{"GET", of("checksum"), "", phext.Checksum([]byte(stored))},
		{"GET", of("toc"), "", "* " + origin + ": hello world!...\n* " + second + ": second\n* " + year + ": a day\n"},
		{"GET", of("status"), "", "Hosting: notes.phext\nPhext Size: " + strconv.Itoa(len(stored)) + "\nScrolls: 3"},
		{"GET", of("json-export"), "", `[{"coord":"` + origin + `","scroll":"hello world!\nline two"}` + "\n" +
			`,{"coord":"` + second + `","scroll":"second"}` + "\n" + `,{"coord":"` + year + `","scroll":"a day"}` + "\n]\n"},

		{"POST", of("where"), "abc", "Calculated coordinate 1.1.1/1.1.1/1.1.1 for input (algo=xor, limit=100)."},
		{"POST", of("where") + "&limit=0003", "\x01abcd", "Calculated coordinate 3.1.1/1.1.1/1.1.1 for input (algo=xor, limit=3)."},
		{"POST", of("where") + "&algo=checksum&limit=7", "abc", "Calculated coordinate 354.161.678/167.145.166/886.403.150 for input (algo=checksum, limit=7)."},

		{"POST", of("delta"), "", stored},
		{"POST", of("delta"), year + ":x\n" + origin + ": " + phext.Checksum([]byte("hello world!\nline two")) +
			"\r\n\r\n  \n" + second + ": first\n" + second + ": " + phext.Checksum([]byte("second")) + "\n1.1.1/1.1.1/1.1.7:   y  \n" +
			"2.1.1/1.1.1/1.1.1: z",
			strings.Repeat("\x17", 6) + wire.MissingScroll + strings.Repeat("\x19", 1980) + "\x18a day\x01" + wire.MissingScroll},
		{"POST", of("delta"), second + ": " + phext.Checksum([]byte("second")) + "\n" + second + ": old\n" +
			year + ": " + phext.Checksum([]byte("a day")) + "\n" + origin + ": " + phext.Checksum([]byte("hello world!\nline two")), "\x17second"},

		{"POST", at("update", origin), "", "Updated 0 bytes"},
		{"GET", at("select", origin), "", ""},
		{"POST", at("delete", second), "", "Removed 6 bytes"},
		{"POST", at("delete", second), "", "Removed 0 bytes"},
		{"GET", of("toc"), "", "* " + year + ": a day\n"},

		{"POST", of("replace"), "one\x17\x18\x17two\x19\x19", "Replaced notes.phext: 11 bytes"},
		{"GET", of("get"), "", "one\x17\x18\x17two\x19\x19"},
		{"GET", of("status"), "", "Hosting: notes.phext\nPhext Size: 11\nScrolls: 2"},
		{"GET", of("toc"), "", "* " + origin + ": one\n* 1.1.1/1.1.1/1.2.2: two\n"},
		{"POST", "/replace?c=acme&p=%E6%97%A5%E8%A8%98%20%2B%25", "", "Replaced 日記 +%.phext: 0 bytes"},
		{"POST", of("remove"), "", "Removed notes.phext: 11 bytes"},
		{"GET", of("get"), "", ""},
	} {
		w.MustAnswer(t, step.method, step.target, step.body, step.want)
	}
	for _, missing := range [][2]string{{"GET", of("download")}, {"POST", of("remove")}} {
		resp, got := w.MustDo(t, missing[0], missing[1], "")
		if resp.StatusCode != http.StatusNotFound || got != `no document "notes"` {
			t.Errorf("%s: %d %q, want 404", missing[1], resp.StatusCode, got)
		}
	}
}

func TestDocuments(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	start := time.Now().Add(-time.Second).Truncate(time.Second)
	w.MustAnswer(t, "POST", "/update?p=notes&c=acme.1.1.1/1.1.1/1.1.3", "text", "Updated 4 bytes")
	w.MustAnswer(t, "POST", "/update?p=%E6%97%A5%E8%A8%98&c=acme.1.1.1/1.1.1/1.1.1", "日", "Updated 3 bytes")

	var list []wire.Document
	resp, body := w.MustDo(t, "GET", "/documents?c=acme", "", "Accept", "application/json")
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	if resp.Header.Get("Content-Type") != "application/json" || len(list) != 2 {
		t.Fatalf("%s %q", resp.Header.Get("Content-Type"), body)
	}
	lines := ""
	for i, want := range []wire.Document{{Name: "notes", Bytes: 6, Scrolls: 1}, {Name: "日記", Bytes: 3, Scrolls: 1}} {
		got := list[i]
		modified, err := time.Parse(time.RFC3339, got.Modified)
		if err != nil || modified.Before(start) || modified.After(time.Now()) || !strings.HasSuffix(got.Modified, "Z") {
			t.Errorf("%s was modified %q, %v, want a time of this test in UTC", got.Name, got.Modified, err)
		}
		lines += got.Name + "\t" + strconv.FormatInt(got.Bytes, 10) + "\t" + strconv.FormatInt(got.Scrolls, 10) + "\t" + got.Modified + "\n"
		if got.Modified = ""; got != want {
			t.Errorf("document %d is %+v, want %+v", i, got, want)
		}
	}
	w.MustAnswer(t, "GET", "/documents?c=acme", "", lines)

	w.MustAnswer(t, "POST", "/remove?p=notes&c=acme", "", "Removed notes.phext: 6 bytes")
	w.MustAnswer(t, "GET", "/documents?c=acme", "", lines[strings.Index(lines, "\n")+1:])
	trash, err := filepath.Glob(filepath.Join(w.dir, ".trash", "notes-*.phext"))
	if err != nil || len(trash) != 1 {
		t.Fatalf("the trash holds %v, %v, want the removed document", trash, err)
	}
	if text, err := os.ReadFile(trash[0]); err != nil || string(text) != "\x17\x17text" {
		t.Errorf("the removed document holds %q, %v", text, err)
	}
}

func TestStats(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	w.MustAnswer(t, "POST", "/update?p=a&c=acme.1.1.1/1.1.1/1.1.3", "text", "Updated 4 bytes")
	w.MustAnswer(t, "POST", "/update?p=b&c=acme."+origin, "x", "Updated 1 bytes")
	var got wire.Stats
	body := w.MustGet(t, "/stats?c=acme")
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	if got.Tenant != testTenant || got.StorageBytes != 7 || got.Documents != 2 || got.Scrolls != 2 || got.Sequence < 2 || got.LogBytes <= 0 {
		t.Errorf("stats %+v", got)
	}
	if got.Misdirected != 0 || got.Syncs.Sum != 1 || got.Checkpoints.Sum != 2 {
		t.Errorf("stats %+v", got)
	}
}

// TestHead wants what GET answers, less the body.
func TestHead(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	w.MustAnswer(t, "POST", "/replace?"+whole, strings.Repeat("a line of text\n", 10_000)+"\x17two", "Replaced notes.phext: 150004 bytes")
	for op := range operations {
		r, _ := rule(op)
		if r.Write || op == wire.Where {
			continue
		}
		target := "/" + string(op) + "?c=acme"
		if r.Coordinate == wire.Required {
			target += "." + origin
		}
		if r.Document {
			target += "&p=notes"
		}
		get, _ := w.MustDo(t, r.Method(), target, "")
		head, body := w.MustDo(t, "HEAD", target, "")
		if head.StatusCode != 200 || body != "" {
			t.Errorf("HEAD %s: %d %s", target, head.StatusCode, clip(body))
		}
		if a, b := get.Header.Get("Content-Type"), head.Header.Get("Content-Type"); a == "" || a != b {
			t.Errorf("%s has the type %q to %s and %q to HEAD", target, a, r.Method(), b)
		}
		if get.ContentLength >= 0 && head.ContentLength >= 0 && get.ContentLength != head.ContentLength {
			t.Errorf("%s has %d bytes to GET and %d to HEAD", target, get.ContentLength, head.ContentLength)
		}
		switch op {
		case wire.Get, wire.Download, wire.Select:
			if head.ContentLength < 150_000 || get.ContentLength < 150_000 {
				t.Errorf("%s has the length %d to GET and %d to HEAD", target, get.ContentLength, head.ContentLength)
			}
		}
	}
}

// TestOdyssey serves a book that a person put into the data directory.
func TestOdyssey(t *testing.T) {
	text, err := os.ReadFile("../../shared/phext/testdata/the-odyssey.phext")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "the odyssey.phext"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	w := MustServe(t, dir, testTenant)
	const document = "p=the%20odyssey&c=acme"
	if got := w.MustGet(t, "/get?"+document); got != string(text) {
		t.Errorf("get answers %d bytes that are not the file's %d", len(got), len(text))
	}
	w.MustAnswer(t, "GET", "/checksum?"+document, "", "9dd0ca3402f6f9e6ee5ecdee786664f9")
	toc := strings.Split(strings.TrimSuffix(w.MustGet(t, "/toc?"+document), "\n"), "\n")
	scrolls := MustSplit(t, string(text))
	if len(toc) != 52 || len(scrolls) != 52 {
		t.Fatalf("toc has %d lines and the file %d scrolls, want 52", len(toc), len(scrolls))
	}
	for i, s := range scrolls {
		if !strings.HasPrefix(toc[i], "* "+s.coordinate+": ") {
			t.Errorf("line %d of toc is %q, want %s", i+1, toc[i], s.coordinate)
		}
		w.MustAnswer(t, "GET", "/select?"+document+"."+s.coordinate, "", s.text)
	}
}

// TestState: answers about one scroll tell its checksum and the change's place.
func TestState(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("by hand ", 1<<18) // mapped from its file
	if err := os.WriteFile(filepath.Join(dir, "placed.phext"), []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	w := MustServe(t, dir, testTenant)
	const other = "1.1.1/1.1.1/1.1.2"
	last := uint64(0)
	for _, step := range []struct {
		method, op, document, at, body, scroll string
		changes                                bool
	}{
		{"GET", "select", "new", origin, "", "", false},
		{"POST", "delete", "new", origin, "", "", false},
		{"POST", "insert", "new", origin, "one", "one", true},
		{"POST", "insert", "new", origin, " two", "one two", true},
		{"POST", "insert", "new", origin, "", "one two", false},
		{"GET", "select", "new", origin, "", "one two", false},
		{"GET", "load", "new", origin, "", "one two", false},
		{"POST", "update", "new", other, "x", "x", true},
		{"GET", "select", "new", origin, "", "one two", false}, // the sequence is the document's
		{"POST", "update", "new", origin, "", "", true},
		{"POST", "delete", "new", other, "", "", true},
		{"POST", "delete", "new", other, "", "", false},
		{"GET", "load", "new", other, "", "", false},
		{"POST", "insert", "placed", origin, "", long, false},
		{"GET", "select", "placed", origin, "", long, false},
		{"POST", "insert", "placed", origin, "!", long + "!", true},
	} {
		resp, body := w.MustDo(t, step.method, "/"+step.op+"?p="+step.document+"&c=acme."+step.at, step.body)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%+.200v: %d %s", step, resp.StatusCode, clip(body))
		}
		want := ""
		if step.scroll != "" {
			want = `"` + phext.Checksum([]byte(step.scroll)) + `"`
		}
		if got := resp.Header.Get("ETag"); got != want || resp.Header["Etag"] != nil && want == "" {
			t.Errorf("%s %s at %s: ETag %s, want %s", step.op, step.document, step.at, got, want)
		}
		seq, err := strconv.ParseUint(resp.Header.Get("SQ-Seq"), 10, 64)
		if err != nil {
			t.Fatalf("%s %s at %s: SQ-Seq: %v", step.op, step.document, step.at, err)
		}
		if step.changes && seq <= last || !step.changes && step.document == "new" && seq != last {
			t.Errorf("%s %s at %s: SQ-Seq %d after %d", step.op, step.document, step.at, seq, last)
		}
		last = max(last, seq)
	}
}
