package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"go.uber.org/zap"
)

// mustServe serves handler on a unix socket and returns a generation that sends
// to it, and the number of connections made so far.
func mustServe(t *testing.T, handler http.HandlerFunc) (*generation, *atomic.Int64) {
	t.Helper()
	socket := mustRunDir(t) + ".sock"
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var made atomic.Int64
	server := &http.Server{Handler: handler, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			made.Add(1)
		}
	}}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	super := &Supervisor{clock: clockwork.NewRealClock()}
	super.cfg.Store(&Config{ResponseTimeout: time.Minute})
	g := &generation{
		super: super, socket: socket, exited: make(chan struct{}), idle: make(chan struct{}),
		tenant: &tenant{id: "acme"}, logger: zap.NewNop(),
	}
	t.Cleanup(g.pool.close)
	return g, &made
}

// post sends a body of which length is said to the worker; -1 sends it in chunks.
func post(t *testing.T, g *generation, body io.Reader, length int64) (*Answer, error) {
	t.Helper()
	r := &Request{Method: http.MethodPost, Target: "/", Body: body, ContentLength: length}
	ahead, more, err := readAhead(r)
	if err != nil {
		return nil, err
	}
	g.enter()
	return g.send(testContext(t), r, ahead, more, true)
}

func TestBodiesArriveWholeAndSmallOnesOnOneConnection(t *testing.T) {
	g, made := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%d %d ", r.ContentLength, len(body))
		w.Write(body)
	})
	send := func(size int, length int64) {
		t.Helper()
		text := strings.Repeat("0123456789abcde\n", size/16+1)[:size]
		resp, err := post(t, g, strings.NewReader(text), length)
		if err != nil {
			t.Fatalf("%d bytes, length %d: %v", size, length, err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := fmt.Sprintf("%d %d %s", length, size, text); err != nil || string(got) != want {
			t.Fatalf("%d bytes, length %d: the worker read %d bytes, %v", size, length, len(got), err)
		}
	}
	sizes := []int{0, 1, connBuffer - 1, connBuffer, smallBody - 1, smallBody}
	for _, size := range sizes {
		send(size, int64(size))
	}
	if made.Load() != 1 {
		t.Errorf("%d connections were made for small bodies, want 1", made.Load())
	}
	// A connection of a large body is not kept where its answer was read to the
	// end before the goroutine that sent the body had noticed that it was done.
	for _, size := range append(sizes, smallBody+1, 3<<20) {
		send(size, -1)
	}
	send(smallBody+1, smallBody+1)
	send(3<<20, 3<<20)
	if g.requests.Load() != 0 {
		t.Errorf("%d requests are still counted in", g.requests.Load())
	}
}

// A body that takes longer than most answers is not held to the time that the
// exchange before it on the connection had.
func TestSlowBodyOnAUsedConnection(t *testing.T) {
	g, made := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	half := strings.Repeat("x", smallBody)
	body, client := io.Pipe()
	defer client.Close()
	go func() {
		io.WriteString(client, half)
		time.Sleep(2 * patience) // the client is slow
		io.WriteString(client, half)
		client.Close()
	}()
	for _, tt := range []struct {
		body   io.Reader
		length int64
	}{{strings.NewReader("small"), 5}, {body, 2 * smallBody}} {
		resp, err := post(t, g, tt.body, tt.length)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != fmt.Sprint(tt.length) {
			t.Errorf("the worker got %s bytes of %d, %v", got, tt.length, err)
		}
		resp.Body.Close()
	}
	if made.Load() != 1 {
		t.Errorf("%d connections, want one", made.Load())
	}
}

func TestAnswerBeforeTheBodyWasReadIsReturned(t *testing.T) {
	g, _ := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no", http.StatusRequestEntityTooLarge)
	})
	// More than sockets and the server's courtesy take in.
	text := bytes.Repeat([]byte("x"), 8<<20)
	for _, length := range []int64{int64(len(text)), -1} {
		resp, err := post(t, g, bytes.NewReader(text), length)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge || string(got) != "no\n" {
			t.Errorf("answer %d %q", resp.StatusCode, got)
		}
	}
}

func TestBodyThatEndsEarlyIsNotTakenForTheWhole(t *testing.T) {
	whole := make(chan bool, 8)
	g, _ := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		whole <- err == nil
	})
	broken := errors.New("the client went away")
	for _, length := range []int64{10, smallBody + 10, -1} {
		_, err := post(t, g, io.MultiReader(strings.NewReader("abc"), &failing{broken}), length)
		if !errors.Is(err, broken) {
			t.Errorf("length %d: error %v", length, err)
		}
		if length > 0 {
			if _, err := post(t, g, strings.NewReader("abc"), length); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("length %d: error %v", length, err)
			}
		}
	}
	// Those with a small body never reached the worker; the three others did.
	for range 3 {
		if <-whole {
			t.Error("the worker took part of a body for the whole")
		}
	}
	if n := g.requests.Load(); n != 0 {
		t.Errorf("%d requests are still counted in", n)
	}
}

// failing is a body that cannot be read on.
type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestHeaderCannotBeginAnotherRequest(t *testing.T) {
	g, made := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %v %v", r.URL.RequestURI(), r.Header, r.ContentLength)
	})
	r := &Request{Method: http.MethodGet, Target: "/select?p=a"}
	r.Header.Add("Accept", "text/plain")
	r.Header.Add("Traceparent", "x\r\n\r\nPOST /delete HTTP/1.1\r\nHost: sq\r\n\r\n")
	r.Header.Add("Bad\r\nHeader", "y")
	g.enter()
	resp, err := g.send(testContext(t), r, nil, false, true)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, _ := io.ReadAll(resp.Body)
	if want := "/select?p=a map[Accept:[text/plain]] 0"; string(got) != want || made.Load() != 1 {
		t.Errorf("the worker saw %q, want %q", got, want)
	}
}

func TestAnswerHeaderIsBounded(t *testing.T) {
	g, _ := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		for range 100 {
			w.Header().Add("X-Long", strings.Repeat("x", 1000))
		}
	})
	var died *ErrDied
	if _, err := post(t, g, nil, 0); !errors.As(err, &died) || !errors.Is(err, errAnswerHeader) || died.Unsent {
		t.Errorf("error %v", err)
	}
}

func TestInterimAnswersAreSkipped(t *testing.T) {
	g, _ := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "final")
	})
	resp, err := post(t, g, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || string(got) != "final" {
		t.Errorf("answer %d %q", resp.StatusCode, got)
	}
}

func TestPoolKeepsTheYoungestAndExpiresTheOld(t *testing.T) {
	g, _ := mustServe(t, func(http.ResponseWriter, *http.Request) {})
	var conns []*conn
	for range 3 {
		c, err := g.connect(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		g.pool.put(c)
	}
	if c := g.pool.take(); c != conns[2] {
		t.Error("the connection used last is not the next one")
	}
	conns[0].since = time.Now().Add(-2 * idleConnTimeout)
	g.pool.expire()
	if len(g.pool.idle) != 1 || g.pool.idle[0] != conns[1] {
		t.Errorf("%d connections are kept, want the young one", len(g.pool.idle))
	}
	g.pool.close()
	g.pool.put(conns[2])
	if len(g.pool.idle) != 0 || g.pool.take() != nil {
		t.Error("a closed pool keeps connections")
	}
}
