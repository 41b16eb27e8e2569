package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestAWrongKeysBodyIsNeverRead: the answer comes although the body never does,
// be it short enough that net/http would wait for it or not.
func TestAWrongKeysBodyIsNeverRead(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	e.edit("read_body_idle 30s 1024", "read_body_idle 10m") // else waiting for the body would pass for not waiting
	e.Boot()
	for version, client := range e.protocols(t) {
		client.Timeout = time.Minute
		for _, length := range []int64{1, 200_000, 1 << 30, -1} {
			for _, tt := range []struct {
				key, method, path string
				status            int
			}{
				{"tok-nobody", "POST", "/insert?c=" + origin, 401},
				{"", "PUT", "/documents/d", 401},
				{adminKey, "POST", "/insert?c=" + origin, 403},
				{"tok-alpha", "POST", "/api/v2/admin/tenants/add", 403},
			} {
				if got := send(t, e, client, tt.key, tt.method, tt.path, stalled(t, ""), length); got.Status != tt.status {
					t.Errorf("HTTP/%d, %d bytes, %s %s: %d %q, want %d", version, length, tt.method, tt.path, got.Status, got.Body, tt.status)
				}
			}
		}
	}
	for line := range strings.Lines(e.Log()) {
		if strings.Contains(line, `"status":40`) && !strings.Contains(line, `"bytes_read":0,`) {
			t.Errorf("of a body was read: %s", line)
		}
	}
	if n := strings.Count(e.Log(), `"bytes_read":0,`); n < 48 {
		t.Errorf("the log tells of %d requests, want 48", n)
	}
}

// TestABodyThatStallsIsAnswered408 in each HTTP version, wherever the body is
// read, and so is one that trickles.
func TestABodyThatStallsIsAnswered408(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{})
	e.edit("read_body_idle 30s 1024", "read_body_idle 300ms 1000000")
	e.Boot()
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "")
	pid := e.Worker("alpha")
	for version, client := range e.protocols(t) {
		client.Timeout = time.Minute
		for _, tt := range []struct {
			name, key, method, path string
			length                  int64
			header                  string
		}{
			{"a short text", "tok-alpha", "POST", "/insert?c=" + origin, 10, "Accept: */*"},
			{"a long text", "tok-alpha", "POST", "/insert?c=" + origin, 1 << 20, "Accept: */*"},
			{"a text of unknown length", "tok-alpha", "POST", "/insert?c=" + origin, -1, "Accept: */*"},
			{"a document", "tok-alpha", "PUT", "/documents/d", -1, "Accept: */*"},
			{"a form", "tok-alpha", "POST", "/insert", 100, form},
			{"an admin request", adminKey, "POST", "/api/v2/admin/tenants/add", 100, "Accept: */*"},
		} {
			for kind, body := range map[string]func() io.Reader{
				"nothing":            func() io.Reader { return stalled(t, "") },
				"a part":             func() io.Reader { return stalled(t, "{part") },
				"bytes that trickle": func() io.Reader { return trickling(t) },
			} {
				if kind == "bytes that trickle" && tt.length >= 0 && tt.length < 1<<20 {
					continue // it would be whole before it is late
				}
				var got Reply
				// Go's client loses the answer where the edge, which closes the
				// connection in the end, is faster than its own writing.
				Eventually(t, "the client reads the answer", func() (err error) {
					got, err = e.TryWith(client, tt.key, tt.method, tt.path, body(), tt.length, tt.header)
					return err
				})
				if got.Status != 408 || !strings.HasSuffix(got.Body, ": it came too slowly") {
					t.Errorf("HTTP/%d, %s of which %s comes: %d %q", version, tt.name, kind, got.Status, got.Body)
				}
			}
		}
	}
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "")
	e.Want("tok-alpha", "GET", "/documents", "", 200, "")
	if e.Worker("alpha") != pid {
		t.Error("a stalled body cost the worker its life")
	}
}

// stalled is a body of which there comes a first part and then nothing. It is a
// pipe because the client must be able to close it, or it would wait itself.
func stalled(t *testing.T, part string) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	go io.WriteString(w, part)
	return r
}

// trickling is a body that goes on for ever, byte by byte.
func trickling(t *testing.T) io.Reader {
	r, w := io.Pipe()
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(w, "x"); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { w.Close() })
	return r
}

// send is TryWith for requests that must be answered.
func send(t *testing.T, e *Edge, client *http.Client, key, method, path string, body io.Reader, length int64, headers ...string) Reply {
	t.Helper()
	got, err := e.TryWith(client, key, method, path, body, length, headers...)
	must(t, err)
	return got
}

// flood sends wrong keys until one is refused by the limit. It returns how many
// were answered 401.
func flood(t *testing.T, e *Edge, client *http.Client, headers ...string) int64 {
	t.Helper()
	var unknown atomic.Int64
	var limited atomic.Bool
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := 0; !limited.Load() && i < 1000; i++ {
				got := send(t, e, client, fmt.Sprintf("tok-guess-%d-%d", worker, i), "GET", "/select?c="+origin, nil, 0, headers...)
				switch got.Status {
				case 401:
					unknown.Add(1)
				case 429:
					limited.Store(true)
					if after, err := strconv.Atoi(got.Header.Get("Retry-After")); err != nil || after != 1 || got.Body != "failed_keys: too many wrong keys from this address; try again in 1 s" {
						t.Errorf("Retry-After %d %v, %q", after, err, got.Body)
					}
				default:
					t.Errorf("%d %q", got.Status, got.Body)
				}
			}
		})
	}
	group.Wait()
	if !limited.Load() {
		t.Errorf("%d wrong keys were not limited", unknown.Load())
	}
	return unknown.Load()
}

// from returns a client whose address is ip.
func from(ip string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 64}}
}

func TestWrongKeysAreLimitedByAddress(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	attacker, neighbour := from("127.0.0.2"), from("127.0.0.3")
	defer attacker.CloseIdleConnections()
	defer neighbour.CloseIdleConnections()
	if n := flood(t, e, attacker); n < 100 {
		t.Errorf("%d wrong keys were answered 401, want 100 at least", n)
	}
	path := "/select?c=" + origin
	for range 50 { // a right key is no guess, whoever else is behind the address
		if got := send(t, e, attacker, "tok-alpha", "GET", path, nil, 0); got.Status != 200 {
			t.Fatalf("a right key from the attacker's address: %d %q", got.Status, got.Body)
		}
	}
	if got := send(t, e, attacker, adminKey, "GET", "/api/v2/admin/tenants", nil, 0); got.Status != 200 {
		t.Errorf("the admin key from the attacker's address: %d %q", got.Status, got.Body)
	}
	if got := send(t, e, neighbour, "tok-nobody", "GET", path, nil, 0); got.Status != 401 {
		t.Errorf("a wrong key from another address: %d %q", got.Status, got.Body)
	}
	if e.Metric(`sq_limited_total{limit="failed_keys"}`) < 1 || e.Metric("sq_auth_failures_total") < 102 {
		t.Error("the metrics do not tell")
	}
	if n := strings.Count(e.Log(), "too many wrong keys; more refusals"); n != 1 {
		t.Errorf("the log holds %d lines", n)
	}
	// The admin's key is guessed under the same limit.
	flood(t, e, attacker)
	Eventually(t, "guesses of the admin key are refused", func() error {
		if got := send(t, e, attacker, "pmb-admin-guess", "GET", "/api/v2/admin/tenants", nil, 0); got.Status != 429 {
			return fmt.Errorf("%d", got.Status)
		}
		return nil
	})
}

// TestClientAddressBehindAProxy is the one that a trusted proxy names.
func TestClientAddressBehindAProxy(t *testing.T) {
	t.Parallel()
	e := Prepare(t, Setup{Plain: true})
	e.edit("strict_sni_host on", "strict_sni_host on\ntrusted_proxies static 127.0.0.2/32")
	e.Boot()
	proxy, liar := from("127.0.0.2"), from("127.0.0.3")
	defer proxy.CloseIdleConnections()
	defer liar.CloseIdleConnections()
	flood(t, e, proxy, "X-Forwarded-For: 2001:db8:1:2::1")
	path := "/select?c=" + origin
	if got := send(t, e, proxy, "tok-nobody", "GET", path, nil, 0, "X-Forwarded-For: 2001:db8:1:3::1"); got.Status != 401 {
		t.Errorf("another client of the proxy: %d %q", got.Status, got.Body)
	}
	flood(t, e, proxy, "X-Forwarded-For: 2001:db8:1:2::1")
	if got := send(t, e, proxy, "tok-alpha", "GET", path, nil, 0, "X-Forwarded-For: 2001:db8:1:2::1"); got.Status != 200 {
		t.Errorf("a right key: %d %q", got.Status, got.Body)
	}
	// Whoever is no trusted proxy is taken at the address of the connection.
	sent := 0
	Eventually(t, "a client that names itself anew each time is limited", func() error {
		var group sync.WaitGroup
		var limited atomic.Bool
		for range 50 {
			sent++
			header := fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", sent%250)
			group.Go(func() {
				if got := send(t, e, liar, "tok-nobody", "GET", path, nil, 0, header); got.Status == 429 {
					limited.Store(true)
				}
			})
		}
		group.Wait()
		if !limited.Load() {
			return fmt.Errorf("not after %d", sent)
		}
		return nil
	})
}
