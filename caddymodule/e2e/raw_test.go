package e2e

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rawTimeout ends a test that would otherwise wait for ever for an answer.
const rawTimeout = time.Minute

// dial opens a bare connection to the edge; over TLS it speaks HTTP/1.1.
func (e *Edge) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", e.host())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(rawTimeout)))
	if strings.HasPrefix(e.url, "https:") {
		config := e.tlsConfig()
		config.NextProtos = []string{"http/1.1"}
		config.ServerName = "localhost"
		c = tls.Client(c, config)
	}
	return c
}

// host is the edge's host and port. Caddy answers any other host with an empty
// 200, and no handler of ours is asked.
func (e *Edge) host() string {
	_, host, _ := strings.Cut(e.url, "://")
	return host
}

// tlsConfig trusts the edge's own authority.
func (e *Edge) tlsConfig() *tls.Config {
	return e.client.Transport.(*http.Transport).TLSClientConfig.Clone()
}

// rawHead ends the lines of a request with CRLF, so that tests can be read.
func rawHead(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// Raw sends bytes on a connection of its own and reads all answers until the
// edge closes it. "{host}" in them stands for the edge's own. methods are those
// of the requests, to read the answers by.
func (e *Edge) Raw(t *testing.T, request string, methods ...string) []Reply {
	t.Helper()
	c := e.dial(t)
	request = strings.ReplaceAll(request, "{host}", e.host())
	go io.WriteString(c, request) // the edge may answer and close before it has read all
	var replies []Reply
	r := bufio.NewReader(c)
	for {
		if _, err := r.Peek(1); err != nil {
			if len(replies) == 0 {
				t.Errorf("%.80q: no answer: %v", request, err)
			}
			return replies
		}
		method := "GET"
		if len(replies) < len(methods) {
			method = methods[len(replies)]
		}
		reply, err := readReply(r, method)
		if err != nil {
			t.Errorf("%.80q: reading answer %d: %v", request, len(replies)+1, err)
			return replies
		}
		replies = append(replies, reply)
	}
}

func readReply(r *bufio.Reader, method string) (Reply, error) {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return Reply{}, err
	}
	return readAll(resp)
}

// keptAlive sends one raw request after another on one connection, as long as
// the edge keeps it.
type keptAlive struct {
	t    *testing.T
	e    *Edge
	conn net.Conn
	r    *bufio.Reader
}

func (e *Edge) keepAlive(t *testing.T) *keptAlive { return &keptAlive{t: t, e: e} }

// do sends a request line, headers and a body as they are and reads the answer.
func (k *keptAlive) do(method, target, body string, headers ...string) Reply {
	k.t.Helper()
	if k.conn == nil {
		k.conn = k.e.dial(k.t)
		k.r = bufio.NewReader(k.conn)
	}
	must(k.t, k.conn.SetDeadline(time.Now().Add(rawTimeout)))
	head := append([]string{method + " " + target + " HTTP/1.1", "Host: " + k.e.host(), "Content-Length: " + strconv.Itoa(len(body))}, headers...)
	_, err := io.WriteString(k.conn, rawHead(head...)+body)
	must(k.t, err)
	resp, err := http.ReadResponse(k.r, &http.Request{Method: method})
	if err != nil {
		k.t.Fatalf("%s %s: %v", method, clip(target), err)
	}
	got, err := readAll(resp)
	must(k.t, err)
	if resp.Close {
		k.conn.Close()
		k.conn = nil
	}
	return got
}
