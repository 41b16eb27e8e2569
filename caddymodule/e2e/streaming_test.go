package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// largeBytes is the size of a document that no buffer on its way holds.
var largeBytes = func() int64 {
	if nightly {
		return 100 << 20
	}
	return 48 << 20
}()

// largeText yields n bytes of a document of many scrolls.
func largeText(n int64) io.Reader { return io.LimitReader(&lines{}, n) }

type lines struct{ n, off int }

func (l *lines) Read(p []byte) (int, error) {
	total := 0
	for total < len(p) {
		line := fmt.Sprintf("line %015d of a large document, in a scroll of some size\n", l.n)
		if l.n%64 == 63 {
			line += "\x17"
		}
		n := copy(p[total:], line[l.off:])
		total += n
		if l.off += n; l.off == len(line) {
			l.n, l.off = l.n+1, 0
		}
	}
	return total, nil
}

// putLarge stores the large document as alpha.
func (e *Edge) putLarge() {
	e.t.Helper()
	resp := e.mustSend(e.client, "PUT", "/documents/large", largeText(largeBytes))
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
		e.t.Fatalf("PUT: %d %q %v", resp.StatusCode, body, err)
	}
}

// mustSend sends a request of alpha's and returns the answer, its body unread.
func (e *Edge) mustSend(client *http.Client, method, path string, body io.Reader) *http.Response {
	e.t.Helper()
	r, err := http.NewRequest(method, e.url+path, body)
	must(e.t, err)
	r.Header.Set("Authorization", "Bearer tok-alpha")
	resp, err := client.Do(r)
	must(e.t, err)
	return resp
}

// peakMemory returns the most memory in bytes that a process has held since the
// call before.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	must(t, err)
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)) // resets VmHWM
	return kilobytes << 10
}

// TestLargeDocuments puts one and reads it in every HTTP version.
func TestLargeDocuments(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	e.Run("do not pass through memory", testLargeDocumentsDoNotPassThroughMemory)
	e.Run("begin before the worker has sent all", testAnAnswerBeginsBeforeTheWorkerHasSentAll)
	e.Run("end with the client", testAClientThatLeavesEndsTheWorkersAnswer)
}

// testLargeDocumentsDoNotPassThroughMemory: neither the edge nor the worker
// holds a large document as it is put and got.
func testLargeDocumentsDoNotPassThroughMemory(t *testing.T, e *Edge) {
	hash := sha256.New()
	io.Copy(hash, largeText(largeBytes))
	want := fmt.Sprintf("%x", hash.Sum(nil))
	e.Do("tok-alpha", "GET", "/version", "") // starts the worker
	peakMemory(t, e.cmd.Process.Pid)
	before := peakMemory(t, e.cmd.Process.Pid)
	e.putLarge()
	for version, client := range e.protocols(t) {
		resp := e.mustSend(client, "GET", "/get?p=large", nil)
		hash := sha256.New()
		n, err := io.Copy(hash, resp.Body)
		resp.Body.Close()
		if got := fmt.Sprintf("%x", hash.Sum(nil)); err != nil || n != largeBytes || got != want || resp.ContentLength != largeBytes {
			t.Errorf("HTTP/%d: %d of %d bytes, another text: %v, %v", version, n, resp.ContentLength, got != want, err)
		}
	}
	grown := peakMemory(t, e.cmd.Process.Pid) - before
	t.Logf("the edge grew by %d KiB", grown>>10)
	if grown > largeBytes/2 && !raceEnabled() {
		t.Errorf("the edge grew by %d MiB while a document of %d passed", grown>>20, largeBytes>>20)
	}
}

// testAnAnswerBeginsBeforeTheWorkerHasSentAll: the worker dies after the first
// byte has come, so what was not sent by then cannot come any more; and a short
// answer must not look like a whole one.
func testAnAnswerBeginsBeforeTheWorkerHasSentAll(t *testing.T, e *Edge) {
	paths := map[int]string{1: "/get?p=large", 2: "/documents/large", 3: "/json-export?p=large"}
	for version, client := range e.protocols(t) {
		e.awaitWorker(t)
		resp := e.mustSend(client, "GET", paths[version], nil)
		if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
			t.Fatalf("HTTP/%d: %v", version, err)
		}
		must(t, syscall.Kill(e.Worker("alpha"), syscall.SIGKILL))
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("HTTP/%d: an answer of %d bytes looks whole though the worker died", version, n)
		}
		e.NoWorkers()
	}
}

// awaitWorker waits until alpha is served, as it is again after a backoff.
func (e *Edge) awaitWorker(t *testing.T) {
	t.Helper()
	Eventually(t, "a worker is up", func() error {
		if got := e.Do("tok-alpha", "HEAD", "/get?p=large", ""); got.Status != 200 {
			return fmt.Errorf("%d", got.Status)
		}
		return nil
	})
}

// testAClientThatLeavesEndsTheWorkersAnswer: its connection to the worker ends.
func testAClientThatLeavesEndsTheWorkersAnswer(t *testing.T, e *Edge) {
	e.awaitWorker(t)
	for version, client := range e.protocols(t) {
		ctx, leave := context.WithCancel(context.Background())
		defer leave()
		r, err := http.NewRequestWithContext(ctx, "GET", e.url+"/get?p=large", nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer tok-alpha")
		resp, err := client.Do(r)
		must(t, err)
		defer resp.Body.Close()
		_, err = io.ReadFull(resp.Body, make([]byte, 1))
		must(t, err)
		connections := e.connections()
		leave()
		Eventually(t, "the worker is let go", func() error {
			if now := e.connections(); now != connections-1 {
				return fmt.Errorf("HTTP/%d: %d connections to the worker, want %d", version, now, connections-1)
			}
			return nil
		})
	}
}

// TestAClientThatLeavesBeforeTheAnswer: the worker is stopped, so that there is
// none; the edge must let go of the request all the same.
func TestAClientThatLeavesBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "")
	pid := e.Worker("alpha")
	stop(t, pid)
	// One of two first requests takes the connection that is idle, after which
	// each needs a new one, and so shows that the edge has it.
	e.leaveBeforeTheAnswer(e.client, 2)
	for _, client := range e.protocols(t) {
		e.leaveBeforeTheAnswer(client, 1)
	}
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	e.Want("tok-alpha", "GET", "/select?c="+origin, "", 200, "")
}

// leaveBeforeTheAnswer sends so many requests of alpha's, whose worker is
// stopped, and gives them up when the edge has connected to the worker for one.
func (e *Edge) leaveBeforeTheAnswer(client *http.Client, requests int) {
	e.t.Helper()
	connections := e.connections()
	ended := strings.Count(e.Log(), `"status":499`)
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	left := make(chan error, requests)
	for range requests {
		r, err := http.NewRequestWithContext(ctx, "GET", e.url+"/documents", nil)
		must(e.t, err)
		r.Header.Set("Authorization", "Bearer tok-alpha")
		go func() {
			resp, err := client.Do(r)
			if err == nil {
				resp.Body.Close()
			}
			left <- err
		}()
	}
	Eventually(e.t, "the edge has the request", func() error {
		if now := e.connections(); now != connections+1 {
			return fmt.Errorf("%d connections to the worker, want %d", now, connections+1)
		}
		return nil
	})
	leave()
	for range requests {
		if err := <-left; !errors.Is(err, context.Canceled) {
			e.t.Errorf("%v, want the request to be cancelled", err)
		}
	}
	Eventually(e.t, "the edge lets go", func() error {
		if now := strings.Count(e.Log(), `"status":499`); now != ended+requests {
			return fmt.Errorf("%d requests have ended, want %d", now-ended, requests)
		}
		return nil
	})
}

// connections counts the worker's ends of the connections to alpha's socket, and
// the listener. Of a stopped worker none goes, since it closes none.
func (e *Edge) connections() int {
	e.t.Helper()
	table, err := os.ReadFile("/proc/net/unix")
	must(e.t, err)
	return strings.Count(string(table), filepath.Join(e.RunDir(), "alpha.sock"))
}

// TestASlowUploadHoldsUpNobody sends a text in pieces, with others' requests
// served between.
func TestASlowUploadHoldsUpNobody(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	e.Want("tok-alpha", "POST", "/update?p=s&c="+origin, "old", 200, "Updated 3 bytes")
	conn := e.dial(t)
	_, err := io.WriteString(conn, rawHead("POST /update?p=s&c="+origin+" HTTP/1.1", "Host: "+e.host(), alphasKey, "Transfer-Encoding: chunked"))
	must(t, err)
	for i := range 10 {
		_, err := io.WriteString(conn, "4\r\nslow\r\n")
		must(t, err)
		e.Want("tok-alpha", "GET", "/select?p=s&c="+origin, "", 200, "old")
		e.Want("tok-alpha", "POST", fmt.Sprintf("/update?p=s&c=1.1.1/1.1.1/1.2.%d", i+1), "other", 200, "Updated 5 bytes")
	}
	_, err = io.WriteString(conn, "0\r\n\r\n")
	must(t, err)
	reply, err := readReply(bufio.NewReader(conn), "POST")
	if err != nil || reply.Status != 200 || reply.Body != "Updated 40 bytes" {
		t.Errorf("%d %q %v", reply.Status, reply.Body, err)
	}
	e.Want("tok-alpha", "GET", "/select?p=s&c="+origin, "", 200, strings.Repeat("slow", 10))
}

// TestAnUploadThatBreaksOffStoresNothing, with and without a length.
func TestAnUploadThatBreaksOffStoresNothing(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	e.Want("tok-alpha", "POST", "/update?p=b&c="+origin, "old", 200, "Updated 3 bytes")
	for _, target := range []string{"POST /update?p=b&c=" + origin, "POST /insert?p=b&c=" + origin, "PUT /documents/b"} {
		for _, body := range []string{"Content-Length: 1000\r\n\r\nhalf of a text", "Transfer-Encoding: chunked\r\n\r\nE\r\nhalf of a text\r\n"} {
			done := strings.Count(e.Log(), "handled request")
			conn := e.dial(t)
			_, err := io.WriteString(conn, target+" HTTP/1.1\r\nHost: "+e.host()+"\r\n"+alphasKey+"\r\n"+body)
			must(t, err)
			conn.Close()
			Eventually(t, "the edge is done with the request", func() error {
				if strings.Count(e.Log(), "handled request") == done {
					return errors.New("it is not logged")
				}
				return nil
			})
			e.Want("tok-alpha", "GET", "/get?p=b", "", 200, "old")
		}
	}
	Eventually(t, "no temporary file is left", func() error {
		temps, err := filepath.Glob(filepath.Join(e.DataRoot(), "alpha/.sq/tmp-*"))
		if err == nil && len(temps) > 0 {
			err = fmt.Errorf("left: %q", temps)
		}
		return err
	})
	if log := e.Log(); strings.Contains(log, "the tenant's worker failed") {
		t.Error("a client's broken upload is logged as a failure of the worker")
	}
}

// TestExpectContinue: a client that asks first is told to go on only where its
// text is wanted, and is refused without having to send it.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	for _, tt := range []struct {
		name, key, length string
		status            int
	}{
		{"wanted", "tok-alpha", "4", 200},
		{"wrong key", "guess", "1000000", 401},
		{"too large", "tok-alpha", "100000000", 413},
	} {
		conn := e.dial(t)
		must(t, conn.SetDeadline(time.Now().Add(rawTimeout)))
		_, err := io.WriteString(conn, rawHead("POST /update?p=e&c="+origin+" HTTP/1.1", "Host: "+e.host(), "Authorization: Bearer "+tt.key, "Content-Length: "+tt.length, "Expect: 100-continue"))
		must(t, err)
		r := bufio.NewReader(conn)
		if tt.status == 200 {
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != 100 {
				t.Fatalf("%s: %v %v, want 100", tt.name, resp, err)
			}
			_, err = io.WriteString(conn, "text")
			must(t, err)
		}
		if reply, err := readReply(r, "POST"); err != nil || reply.Status != tt.status {
			t.Errorf("%s: %d %q %v, want %d", tt.name, reply.Status, reply.Body, err, tt.status)
		}
	}
	e.Want("tok-alpha", "GET", "/select?p=e&c="+origin, "", 200, "text")
}
