package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

func TestKillDuringRequest(t *testing.T) {
	s, logs := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	pid := mustPID(t, s, spec)
	failed := make(chan error, 1)
	go func() {
		_, err := do(testContext(t), s, spec, request(http.MethodPost, "/hang", ""))
		failed <- err
	}()
	mustGet(t, s, spec, "/entered")
	mustKill(t, pid, syscall.SIGKILL)
	wantDied(t, <-failed, false)
	if next := mustPID(t, s, spec); next == pid {
		t.Fatalf("process %d still answers", pid)
	}
	if st := s.Status("acme"); st.Starts != 2 || st.Crashes != 1 || !strings.Contains(st.LastError, "killed") {
		t.Errorf("status %+v, want a second start after a kill", st)
	}
	if logs.FilterMessage("worker is broken").Len() != 1 {
		t.Error("the death was not logged once")
	}
}

// The worker's death ends a request whose client has not sent all of it, and so
// does its cancellation, although the client's next byte never comes.
func TestEndDuringUpload(t *testing.T) {
	reason := errors.New("removed")
	for _, cancelled := range []bool{false, true} {
		s, _ := mustNew(t, Config{})
		spec := mustSpec(t, "acme")
		pid := mustPID(t, s, spec)
		body, client := io.Pipe()
		defer client.Close()
		ctx, cancel := context.WithCancelCause(testContext(t))
		defer cancel(nil)
		r := request(http.MethodPost, "/hang", "")
		r.Body, r.ContentLength = body, 1<<20
		failed := make(chan error, 1)
		go func() {
			_, err := do(ctx, s, spec, r)
			failed <- err
		}()
		if _, err := client.Write(make([]byte, 1<<16)); err != nil {
			t.Fatal(err)
		}
		mustGet(t, s, spec, "/entered")
		if cancelled {
			cancel(reason)
			if err := <-failed; err != reason {
				t.Errorf("error %v, want %v", err, reason)
			}
			continue
		}
		mustKill(t, pid, syscall.SIGKILL)
		wantDied(t, <-failed, false)
	}
}

func TestKillDuringAnswer(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	pid := mustPID(t, s, spec)
	resp, err := s.RoundTrip(testContext(t), spec, request(http.MethodGet, "/stream", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	mustGet(t, s, spec, "/entered")
	mustKill(t, pid, syscall.SIGKILL)
	body, err := io.ReadAll(resp.Body)
	if string(body) != "begun" || err == nil || !strings.Contains(err.Error(), "acme") {
		t.Fatalf("read %q, %v; want what was sent and an error", body, err)
	}
}

func TestCancelReachesWorker(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	reason := errors.New("client left")
	ctx, cancel := context.WithCancelCause(testContext(t))
	failed := make(chan error, 1)
	go func() {
		_, err := do(ctx, s, spec, request(http.MethodPost, "/hang", ""))
		failed <- err
	}()
	mustGet(t, s, spec, "/entered")
	cancel(reason)
	if err := <-failed; err != reason {
		t.Errorf("error %v, want the cause %v", err, reason)
	}
	mustGet(t, s, spec, "/left")
}

func TestClosedAnswerReachesWorker(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	resp, err := s.RoundTrip(testContext(t), spec, request(http.MethodGet, "/stream", ""))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	mustGet(t, s, spec, "/left")
}

func TestResponseTimeout(t *testing.T) {
	s, _ := mustNew(t, Config{ResponseTimeout: 100 * time.Millisecond})
	spec := mustSpec(t, "acme")
	_, err := do(testContext(t), s, spec, request(http.MethodPost, "/hang", ""))
	if !errors.Is(err, ErrTimeout) {
		t.Fatalf("error %v, want ErrTimeout", err)
	}
	mustGet(t, s, spec, "/left")
}

// What reading the client's body returns is the caller's to explain.
func TestBodyErrorIsReturned(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	broken := errors.New("client broke off")
	r := request(http.MethodPost, "/execute", "x")
	r.Body = iotest.ErrReader(broken)
	if _, err := do(testContext(t), s, spec, r); err != broken {
		t.Fatalf("error %v, want %v", err, broken)
	}
	if got := readLines(t, filepath.Join(spec.DataDir, "executed")); len(got) != 0 {
		t.Fatalf("the worker executed %q", got)
	}
}

// A worker that takes no more connections but lives is told to end, and the
// request goes to the next one.
func TestRefusedConnectionIsSentAgain(t *testing.T) {
	s, _ := mustNew(t, Config{})
	spec := mustSpec(t, "acme")
	pid := mustPID(t, s, spec)
	mustGet(t, s, spec, "/deafen")
	s.tenant("acme").ready.Load().pool.close()
	if _, err := do(testContext(t), s, spec, request(http.MethodPost, "/execute", "once")); err != nil {
		t.Fatal(err)
	}
	if next := mustPID(t, s, spec); next == pid {
		t.Fatalf("process %d still answers", pid)
	}
	if got := readLines(t, filepath.Join(spec.DataDir, "executed")); len(got) != 1 {
		t.Fatalf("executed %q, want once", got)
	}
}

// A write whose worker dies is not sent again, whatever its headers make
// net/http believe.
func TestWriteIsNotRepeated(t *testing.T) {
	s, _ := mustNew(t, Config{})
	for i, header := range []string{"", "Idempotency-Key", "X-Idempotency-Key"} {
		for _, body := range []string{"", "text"} {
			spec := mustSpec(t, fmt.Sprintf("acme-%d%s", i, body))
			mustGet(t, s, spec, "/who") // so that the connection is a reused one
			r := request(http.MethodPost, "/execute?die", body)
			if header != "" {
				r.Header.Add(header, "1")
			}
			_, err := do(testContext(t), s, spec, r)
			wantDied(t, err, false)
			starts := readLines(t, filepath.Join(spec.DataDir, "starts"))
			if len(starts) != 1 {
				t.Errorf("%d workers saw a write with header %q and body %q", len(starts), header, body)
			}
		}
	}
}

// Kills at random moments under writers: an answered write was executed once, one
// that is called unsent never, and none twice.
func TestWritesUnderKills(t *testing.T) {
	const tenants, writers, writes = 8, 4, 60
	s, _ := mustNew(t, Config{})
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range tenants {
		spec := mustSpec(t, fmt.Sprintf("t%d", i))
		var mu sync.Mutex
		answered, unsent := map[string]bool{}, map[string]bool{}
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				for n := range writes {
					id := fmt.Sprintf("%d.%d", w, n)
					_, err := do(ctx, s, spec, request(http.MethodPost, "/execute", id))
					var died *ErrDied
					var down *ErrUnavailable
					mu.Lock()
					switch {
					case err == nil:
						answered[id] = true
					case errors.As(err, &down), errors.As(err, &died) && died.Unsent:
						unsent[id] = true
					case died == nil:
						t.Errorf("write %s: %v", id, err)
					}
					mu.Unlock()
				}
			})
		}
		// One worker after the other is killed, each once it has answered
		// something.
		killer, stop := context.WithCancel(ctx)
		killed := make(chan int)
		go func() {
			n := 0
			defer func() { killed <- n }()
			for killer.Err() == nil && n < 4 {
				before := len(readLines(t, filepath.Join(spec.DataDir, "executed")))
				waitForOr(killer, func() bool { return len(readLines(t, filepath.Join(spec.DataDir, "executed"))) > before })
				if st := s.Status(spec.Tenant); st.State == Ready && syscall.Kill(st.PID, syscall.SIGKILL) == nil {
					n++
				}
			}
		}()
		wg.Go(func() {
			group.Wait()
			stop()
			kills := <-killed
			executed := map[string]int{}
			for _, id := range readLines(t, filepath.Join(spec.DataDir, "executed")) {
				executed[id]++
			}
			for id, n := range executed {
				if n > 1 {
					t.Errorf("%s: write %s was executed %d times", spec.Tenant, id, n)
				}
				if unsent[id] {
					t.Errorf("%s: write %s was executed and called unsent", spec.Tenant, id)
				}
			}
			for id := range answered {
				if executed[id] == 0 {
					t.Errorf("%s: write %s was answered and never executed", spec.Tenant, id)
				}
			}
			unknown := writers*writes - len(answered) - len(unsent)
			if kills == 0 || unknown > kills*writers {
				t.Errorf("%s: %d writes of %d writers are of unknown outcome after %d kills", spec.Tenant, unknown, writers, kills)
			}
			t.Logf("%s: %d kills; of %d writes %d were answered, %d unsent, %d unknown",
				spec.Tenant, kills, writers*writes, len(answered), len(unsent), unknown)
		})
	}
	wg.Wait()
}

func waitForOr(ctx context.Context, so func() bool) {
	for !so() && ctx.Err() == nil {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// A full backlog makes connecting fail at once; requests must outlast it.
func TestDialOutlastsFullBacklog(t *testing.T) {
	path := filepath.Join(mustRunDir(t) + ".sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	g := &generation{socket: path}
	const dials = 64
	conns, errs := make(chan net.Conn, dials), make(chan error, dials)
	for range dials {
		go func() {
			c, err := g.connect(ctx)
			if err != nil {
				errs <- err
				return
			}
			conns <- c
		}()
	}
	// Two fit; the rest must be waiting when the first is taken.
	for range 2 {
		(<-conns).Close()
	}
	go func() {
		for range dials {
			if c, _, err := syscall.Accept(fd); err == nil {
				defer syscall.Close(c)
			}
		}
	}()
	for range dials - 2 {
		select {
		case c := <-conns:
			c.Close()
		case err := <-errs:
			t.Fatal(err)
		}
	}
}
