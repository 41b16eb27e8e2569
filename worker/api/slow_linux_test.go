package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// manyScrolls is a document of some megabytes, whose table of contents is
// larger still, with a large scroll at its end.
func manyScrolls() (document, last string) {
	var b strings.Builder
	for range 99 {
		for range 99 {
			b.WriteString("a scroll of some length, that is not short")
			b.WriteByte(0x17)
		}
		b.WriteByte(0x18)
	}
	for range 60_000 {
		b.WriteString("text")
		b.WriteByte(0x17)
	}
	last = strings.Repeat("0123456789abcde\n", 1<<18)
	return b.String() + last, fmt.Sprintf("1.1.1/1.1.1/1.100.%d", 60_001)
}

// stalled is a client that has read the beginning of an answer and reads no more.
type stalled struct {
	conn net.Conn
	r    *bufio.Reader
}

func (w *worker) mustStall(t *testing.T, method, target, body string) *stalled {
	t.Helper()
	conn, err := net.Dial("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: sq\r\nContent-Length: %d\r\n\r\n%s", method, target, len(body), body)
	r := bufio.NewReader(conn)
	if _, err := r.Peek(1); err != nil {
		t.Fatal(err)
	}
	return &stalled{conn, r}
}

// wantCut reads what is left and fails if the answer looks whole.
func (s *stalled) wantCut(t *testing.T) {
	t.Helper()
	resp, err := http.ReadResponse(s.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK || err == nil {
		t.Errorf("an answer %d of %d bytes looks whole though its reader was too slow", resp.StatusCode, n)
	}
}

// cutOff returns the log's lines of slow readers.
func (w *worker) cutOff() int { return w.logs.FilterMessageSnippet("too slowly").Len() }

func waitUntil(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting until %s", what)
		}
	}
}

// TestSlowReadersAreCutOff: whatever answers with much of a document has a
// deadline, and a short answer does not look whole.
func TestSlowReadersAreCutOff(t *testing.T) {
	document, last := manyScrolls()
	dir := t.TempDir()
	MustPlace(t, dir, "notes", document)
	w := MustServeWith(t, dir, testTenant, time.Millisecond)
	w.MustAnswer(t, "GET", "/select?p=notes&c=acme."+last, "", strings.Repeat("0123456789abcde\n", 1<<18))
	var stalls []*stalled
	for _, target := range []string{"get", "download", "toc", "json-export", "delta", "select"} {
		method, at := "GET", ""
		switch target {
		case "delta":
			method = "POST"
		case "select":
			at = "." + last
		}
		stalls = append(stalls, w.mustStall(t, method, "/"+target+"?p=notes&c=acme"+at, ""))
	}
	waitUntil(t, "all are cut off", func() bool { return w.cutOff() == len(stalls) })
	for _, s := range stalls {
		s.wantCut(t)
	}
	line := w.logs.FilterMessageSnippet("too slowly").All()[0].ContextMap()
	if line["document"] != "notes" || line["bytes_sent"].(int64) <= 0 || !strings.HasPrefix(line["path"].(string), "/") {
		t.Errorf("the log says %v", line)
	}
}

// TestReadersThatGoOnAreNot: the deadline moves on with what is read, and is off
// the connection afterwards.
func TestReadersThatGoOnAreNot(t *testing.T) {
	document, _ := manyScrolls()
	dir := t.TempDir()
	MustPlace(t, dir, "notes", document)
	w := MustServeWith(t, dir, testTenant, time.Millisecond)
	toc := w.MustGet(t, "/toc?"+whole)
	for range 3 {
		w.MustAnswer(t, "GET", "/get?"+whole, "", document)
		w.MustAnswer(t, "GET", "/toc?"+whole, "", toc)
	}
	if n := w.cutOff(); n != 0 {
		t.Errorf("%d readers were cut off", n)
	}
}

// TestSlowReaderLetsGoOfItsVersion: the version that a slow reader holds keeps
// the space of its file, which is removed, on the disk. Writers go on meanwhile,
// and once the reader is cut off the file is gone.
func TestSlowReaderLetsGoOfItsVersion(t *testing.T) {
	document, _ := manyScrolls()
	dir := t.TempDir()
	MustPlace(t, dir, "notes", document)
	w := MustServeWith(t, dir, testTenant, 3*time.Second)
	held := func() bool {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(maps), dir+"/notes.phext (deleted)")
	}
	slow := w.mustStall(t, "GET", "/get?"+whole, "")
	w.MustAnswer(t, "POST", "/update?p=notes&c=acme."+origin, "changed", "Updated 7 bytes")
	w.MustAnswer(t, "POST", "/replace?"+whole, "new", "Replaced notes.phext: 3 bytes")
	if !held() {
		t.Error("nothing holds the old file: this test shows nothing")
	}
	w.MustAnswer(t, "GET", "/get?"+whole, "", "new")
	waitUntil(t, "the reader is cut off", func() bool { return w.cutOff() == 1 })
	waitUntil(t, "the old file is gone", func() bool { return !held() })
	slow.wantCut(t)
}
