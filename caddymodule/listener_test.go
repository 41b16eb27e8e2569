package caddymodule

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// strictServer is net/http's own server behind the wrapper, with a handler that
// answers with the method, path and body.
type strictServer struct {
	addr string
	mu   sync.Mutex
	seen []string // paths
}

func startStrict(t testing.TB, wrap bool) *strictServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &strictServer{addr: l.Addr().String()}
	if wrap {
		l = new(StrictListener).WrapListener(l)
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return s
}

func (s *strictServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, r.URL.Path)
	s.mu.Unlock()
	if r.URL.Path == "/takeover" {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(conn, buf)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "bad body", http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
}

// answers sends request, ends the sending side if it is to, and reads all
// answers until the server closes the connection.
func (s *strictServer) answers(t *testing.T, request string, half bool) (answers []string) {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	if half {
		c.(*net.TCPConn).CloseWrite()
	}
	r := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
				t.Errorf("%q: %v", request, err)
			}
			return answers
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("%q: %v", request, err)
		}
		answers = append(answers, fmt.Sprint(resp.StatusCode, " ", string(body)))
	}
}

// TestStrictListenerRefuses: what is not clear is answered 400, in its turn, and
// what follows it never gets to a handler.
func TestStrictListenerRefuses(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	s := startStrict(t, true)
	for _, tt := range refusedRequests {
		request := strings.ReplaceAll(tt.request, "|", "")
		if strings.HasPrefix(request, "PRI ") {
			continue // answered by the handler, and the connection closed
		}
		request = strings.ReplaceAll(request, " HTTP/1.1\r\n", " HTTP/1.1\r\nHost: a\r\n")
		got := s.answers(t, "GET /first HTTP/1.1\r\nHost: a\r\n\r\n"+request+smuggled, false)
		if len(got) > 0 && strings.HasPrefix(got[1:][0], "200 GET / ") {
			got = slices.Delete(got, 1, 2) // the case's own first request
		}
		if len(got) != 2 || got[0] != "200 GET /first " || !strings.HasPrefix(got[1], "400 ") {
			t.Errorf("%s: %q, want the answer to the first request, 400 and the end", tt.name, got)
		}
	}
	if slices.Contains(s.seen, "/smuggled") {
		t.Error("a smuggled request was served")
	}
}

func TestStrictListenerServes(t *testing.T) {
	strict, plain := startStrict(t, true), startStrict(t, false)
	for _, tt := range clearRequests {
		request := strings.ReplaceAll(tt.requests, " HTTP/1.1\r\n", " HTTP/1.1\r\nHost: a\r\n")
		request = strings.ReplaceAll(request, "|", "")
		got, want := strict.answers(t, request, true), plain.answers(t, request, true)
		if len(want) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s: %q, net/http by itself answers %q", tt.name, got, want)
		}
	}
}

// TestStrictListenerLetsGoOfAConnectionTakenOver sends through an upgraded
// connection what is no HTTP.
func TestStrictListenerLetsGoOfAConnectionTakenOver(t *testing.T) {
	s := startStrict(t, true)
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprint(c, "GET /takeover HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	for _, frame := range []string{"\x81\x85\x00\x00\x00\x00hello", "\x00\n\n\r\x7f", strings.Repeat("\xff", 10000)} {
		go io.WriteString(c, frame)
		echo := make([]byte, len(frame))
		if _, err := io.ReadFull(r, echo); err != nil || string(echo) != frame {
			t.Fatalf("%.20q came back as %.20q, %v", frame, echo, err)
		}
	}
}

// BenchmarkStrictListener compares a request over one connection, kept alive,
// with and without the wrapper.
func BenchmarkStrictListener(b *testing.B) {
	const request = "GET /api/v2/select?p=notes&c=1.1.1/1.1.1/1.1.1 HTTP/1.1\r\nHost: localhost:8443\r\nUser-Agent: curl/8.5.0\r\n" +
		"Accept: */*\r\nAuthorization: Bearer pmb-v1-c65c26e1035636a79cec9c7ebaafd3ae\r\n\r\n"
	for _, wrap := range []bool{false, true} {
		b.Run(fmt.Sprintf("wrapped=%v", wrap), func(b *testing.B) {
			c, err := net.Dial("tcp", startStrict(b, wrap).addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.ReportAllocs()
			answer := make([]byte, 4096)
			for b.Loop() {
				if _, err := io.WriteString(c, request); err != nil {
					b.Fatal(err)
				}
				if _, err := c.Read(answer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
