package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// HoldSockets takes the edge's port, as systemd does for sqedge.socket, and has
// the edge listen on what it inherits, as the Caddyfile's comment says.
func (e *Edge) HoldSockets() {
	e.t.Helper()
	address := strings.Replace(strings.TrimPrefix(e.url, "https://"), "localhost", "127.0.0.1", 1)
	tcp, err := net.Listen("tcp", address)
	must(e.t, err)
	udp, err := net.ListenPacket("udp", address)
	must(e.t, err)
	for _, socket := range []interface{ File() (*os.File, error) }{tcp.(*net.TCPListener), udp.(*net.UDPConn)} {
		file, err := socket.File()
		must(e.t, err)
		e.files = append(e.files, file)
		e.t.Cleanup(func() { file.Close() })
	}
	e.t.Cleanup(func() { tcp.Close(); udp.Close() })
	path := filepath.Join(e.dir, "Caddyfile")
	data, err := os.ReadFile(path)
	must(e.t, err)
	text, changed := strings.Replace(string(data), "\tdefault_bind {$SQ_BIND}\n", "", 1), false
	for _, line := range []string{"default_bind fd/3 {", "\tprotocols h1 h2", "}", "default_bind fdgram/4 {", "\tprotocols h3", "}"} {
		before := text
		text = strings.Replace(text, "\t# "+line+"\n", "\t"+line+"\n", 1)
		changed = changed || text != before
	}
	if !changed || strings.Contains(text, "SQ_BIND}") {
		e.t.Fatalf("the Caddyfile's lines for sockets that systemd holds are not as expected:\n%s", text)
	}
	must(e.t, os.WriteFile(path, []byte(text), 0o600))
}

// The edge is restarted and reloaded while clients connect, each request on a
// connection of its own: none is refused or reset, since the sockets stay.
func TestRestartOfTheEdgeRefusesNobody(t *testing.T) {
	t.Parallel()
	restarts := 6
	if nightly {
		restarts = 60
	}
	e := Prepare(t, Setup{})
	e.HoldSockets()
	e.Boot()
	e.Want("tok-alpha", "POST", "/insert?c="+origin, "text", 200, "Inserted 4 bytes")
	e.inheritsNoSocket(t)
	roots := e.client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	protocols := map[string]http.RoundTripper{}
	for _, next := range []string{"http/1.1", "h2"} {
		config := &tls.Config{RootCAs: roots, NextProtos: []string{next}}
		protocols[next] = &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: next == "h2"}
	}
	read := func(client *http.Client) (Reply, error) {
		return e.TryWith(client, "tok-alpha", "GET", "/select?c="+origin, nil, 0)
	}
	var stopped atomic.Bool
	var load sync.WaitGroup
	var served atomic.Int64
	for name, transport := range protocols {
		client := &http.Client{Transport: transport, Timeout: time.Minute}
		for range 4 {
			load.Go(func() {
				for !stopped.Load() {
					if got, err := read(client); err != nil || got.Status != 200 || got.Body != "text" {
						t.Errorf("%s: %v, %d %q", name, err, got.Status, clip(got.Body))
					}
					served.Add(1)
				}
			})
		}
	}
	progress := func() {
		from := served.Load()
		Eventually(t, "requests are served", func() error {
			if n := served.Load() - from; n < 16 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
	for range restarts {
		progress()
		e.Quit()
		e.Boot()
		progress()
		e.ReloadForced()
		// HTTP/3 is there again for new connections; those from before are gone
		// with the keys that the old process had for them.
		three := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		if got, err := read(&http.Client{Transport: three, Timeout: time.Minute}); err != nil || got.Status != 200 || got.Body != "text" {
			t.Errorf("HTTP/3: %v, %d %q", err, got.Status, clip(got.Body))
		}
		three.Close()
	}
	progress()
	stopped.Store(true)
	load.Wait()
	t.Logf("%d restarts and reloads: %d connections", restarts, served.Load())
}

// inheritsNoSocket checks that a worker has none of the edge's sockets.
func (e *Edge) inheritsNoSocket(t *testing.T) {
	t.Helper()
	held := make(map[string]bool)
	for _, file := range e.files {
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
		must(t, err)
		held[link] = true
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", e.Worker("alpha")))
	must(t, err)
	if len(links) < 3 {
		t.Fatalf("the worker has the descriptors %q", links)
	}
	for _, link := range links {
		if target, _ := os.Readlink(link); held[target] {
			t.Errorf("the worker has the edge's socket %s as %s", target, filepath.Base(link))
		}
	}
}
