package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// lacking is what the edge logs of a server without the listener wrapper.
const lacking = "add listener_wrappers { sq }"

// TestStrictListener: the project's Caddyfile has the listener wrapper, over TLS
// and without.
func TestStrictListener(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		e := Start(t, Setup{Plain: plain})
		for _, tt := range []struct {
			name string
			run  func(*testing.T, *Edge)
		}{
			{"refused in turn", testRefusedInTurn},
			{"split anywhere", testRefusedHoweverItIsSplit},
			{"curl uploads in chunks", testCurlUploadsInChunks},
			{"pipelining", testPipelining},
			{"upgrade that is not granted", testUpgradeThatIsNotGranted},
			{"malformed chunks", testMalformedChunks},
		} {
			e.Run(fmt.Sprintf("plain=%v/%s", plain, tt.name), tt.run)
		}
		if !plain {
			e.Run("HTTP where TLS is spoken", testHTTPWhereTLSIsSpoken)
		}
		if strings.Contains(e.Log(), lacking) {
			t.Error("the edge warns of the Caddyfile that it came with")
		}
	}
}

// bothHeaders is a request that holds a second one for a reader who goes by
// the length.
const bothHeaders = "POST /update?p=own&c=" + origin + " HTTP/1.1\r\nHost: {host}\r\n" + alphasKey +
	"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + "3\r\nabc\r\n0\r\n\r\n"

// testRefusedInTurn: the answers to what was sent before are not lost.
func testRefusedInTurn(t *testing.T, e *Edge) {
	get := rawHead("GET /version HTTP/1.1", "Host: {host}", alphasKey)
	put := rawHead("PUT /update?p=turn&c="+origin+" HTTP/1.1", "Host: {host}", alphasKey, "Transfer-Encoding: chunked") + "4\r\nturn\r\n0\r\n\r\n"
	replies := e.Raw(t, get+put+bothHeaders+get)
	if len(replies) != 3 || replies[0].Status != 200 || replies[1].Body != "Updated 4 bytes" || replies[2].Status != 400 {
		t.Errorf("%v, want two answers, 400 and the end of the connection", replies)
	}
	e.Want("tok-alpha", "GET", "/documents/own", "", 404, `no document "own"`)
}

// testRefusedHoweverItIsSplit sends each half in a write of its own.
func testRefusedHoweverItIsSplit(t *testing.T, e *Edge) {
	request := strings.ReplaceAll(bothHeaders, "{host}", e.host())
	for at := 1; at < strings.Index(request, "\r\n\r\n")+4; at += 3 {
		c := e.dial(t)
		_, err := io.WriteString(c, request[:at])
		must(t, err)
		_, err = io.WriteString(c, request[at:])
		must(t, err)
		r := bufio.NewReader(c)
		reply, err := readReply(r, "POST")
		if err != nil || reply.Status != 400 {
			t.Fatalf("split at %d: %v, %v", at, reply, err)
		}
		if _, err := r.ReadByte(); err == nil {
			t.Errorf("split at %d: the connection was kept", at)
		}
		c.Close()
	}
	e.Want("tok-alpha", "GET", "/documents/own", "", 404, `no document "own"`)
}

// testCurlUploadsInChunks uses the client that most users have.
func testCurlUploadsInChunks(t *testing.T, e *Edge) {
	text := strings.Repeat("curl ", 100_000)
	for _, args := range [][]string{
		{"--http1.1"},
		{"--http1.1", "-H", "Expect: 100-continue"},
		{"--http1.1", "--compressed", "--raw"},
		{"--http2"},
	} {
		args = append(args, "-sS", "--cacert", e.CAPath(), "-H", alphasKey, "-T", "-", e.url+"/update?p=curl&c="+origin,
			"--next", "-sS", "--cacert", e.CAPath(), "-H", alphasKey, e.url+"/checksum?p=curl")
		if !strings.HasPrefix(e.url, "https:") && args[0] == "--http2" {
			continue // curl would ask for an upgrade to h2c, see testUpgradeThatIsNotGranted
		}
		cmd := exec.Command("curl", args...)
		cmd.Stdin = strings.NewReader(text)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		want := fmt.Sprintf("Updated %d bytes", len(text))
		if err != nil || !strings.HasPrefix(string(out), want) || len(out) != len(want)+32 {
			t.Errorf("curl %v: %v, %q", args, err, out)
		}
	}
}

func testPipelining(t *testing.T, e *Edge) {
	var requests strings.Builder
	for i := range 50 {
		body := strings.Repeat("x", i*i)
		head := []string{fmt.Sprintf("PUT /update?p=pipe&c=1.1.1/1.1.1/1.1.%d HTTP/1.1", i+1), "Host: {host}", alphasKey}
		if i%2 == 0 {
			requests.WriteString(rawHead(append(head, fmt.Sprint("Content-Length: ", len(body)))...) + body)
		} else {
			requests.WriteString(rawHead(append(head, "Transfer-Encoding: chunked")...) + fmt.Sprintf("%X;a=b\r\n%s\r\n0\r\nX-A: b\r\n\r\n", len(body), body))
		}
	}
	requests.WriteString(rawHead("GET /status?p=pipe HTTP/1.1", "Host: {host}", alphasKey, "Connection: close"))
	replies := e.Raw(t, requests.String())
	if len(replies) != 51 {
		t.Fatalf("%d answers, want 51", len(replies))
	}
	for i, reply := range replies[:50] {
		if want := fmt.Sprintf("Updated %d bytes", i*i); reply.Body != want {
			t.Errorf("answer %d: %d %q, want %q", i, reply.Status, reply.Body, want)
		}
	}
	if !strings.HasSuffix(replies[50].Body, "Scrolls: 49") {
		t.Errorf("%q", replies[50].Body)
	}
}

// testUpgradeThatIsNotGranted: the answer is an ordinary one and the connection
// goes on as HTTP/1.1.
func testUpgradeThatIsNotGranted(t *testing.T, e *Edge) {
	k := e.keepAlive(t)
	for _, header := range []string{"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Upgrade: websocket\r\nSec-WebSocket-Version: 13"} {
		if got := k.do("GET", "/version", "", alphasKey, "Connection: Upgrade\r\n"+header); got.Status != 200 || got.Header.Get("Upgrade") != "" {
			t.Errorf("%q: %d %q", header, got.Status, got.Body)
		}
	}
	k.conn.Close()
}

// testMalformedChunks breaks the framing of a body that a worker is reading.
// Behind bad trailers net/http takes the body for ended and looks for a next
// request; there must be none.
func testMalformedChunks(t *testing.T, e *Edge) {
	head := rawHead("PUT /documents/broken HTTP/1.1", "Host: {host}", alphasKey, "Transfer-Encoding: chunked")
	for _, rest := range []string{"5\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\n", "5\r\nhello\r\n0\r\n X: y\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n"} {
		for _, reply := range e.Raw(t, head+rest+rawHead("GET /version HTTP/1.1", "Host: {host}", alphasKey)) {
			if reply.Status != 400 {
				t.Errorf("%q: %v, want 400", rest, reply)
			}
		}
	}
	e.Want("tok-alpha", "GET", "/documents/broken", "", 404, `no document "broken"`)
}

func testHTTPWhereTLSIsSpoken(t *testing.T, e *Edge) {
	resp, err := http.Get("http://" + e.host() + "/version")
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != 400 || !strings.Contains(string(body), "Client sent an HTTP request to an HTTPS server") {
		t.Errorf("%d %q, %v", resp.StatusCode, body, err)
	}
}

// TestWarnsOfAServerWithoutTheListenerWrapper: once for each server, whichever
// of its sites has the handler.
func TestWarnsOfAServerWithoutTheListenerWrapper(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	const sites = "https://other.localhost:8444 {\n\tsq\n\ttls internal\n}\nhttps://third.localhost:8444 {\n\tsq\n\ttls internal\n}\n"
	e.edit("\t\t\tsq_graceful\n\t\t\ttls\n\t\t\tsq\n", "\t\t\tsq_graceful\n\t\t\ttls\n", "\n{$SQ_SITE", "\n"+sites+"{$SQ_SITE")
	out, err := e.Caddy("validate", "--config", filepath.Join(e.dir, "Caddyfile"))
	if err != nil || strings.Count(out, lacking) != 2 || !strings.Contains(out, `:8444"]`) {
		t.Errorf("%v, %d warnings, want 2:\n%s", err, strings.Count(out, lacking), out)
	}
}
