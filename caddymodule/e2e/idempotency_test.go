package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestWriteWithAnIdempotencyKeyIsMadeOnceAndAnsweredTheSame(t *testing.T) {
	e := Start(t, Setup{})
	const key = "tok-alpha"
	writes := []struct{ method, path, body, want string }{
		{"POST", "/insert?p=notes&c=" + origin, "text", "Inserted 4 bytes"},
		{"GET", "/insert?p=notes&s=more&c=" + origin, "", "Inserted 4 bytes"},
		{"PUT", "/update?p=notes&c=1.1.1/1.1.1/1.1.2", "text", "Updated 4 bytes"},
		{"POST", "/update?p=notes&c=1.1.1/1.1.1/1.1.2", "texts", "Updated 5 bytes"},
		{"DELETE", "/delete?p=notes&c=1.1.1/1.1.1/1.1.2", "", "Removed 5 bytes"},
		{"GET", "/delete?p=notes&c=1.1.1/1.1.1/1.1.2", "", "Removed 0 bytes"},
		{"PUT", "/api/v2/documents/whole", "one\x17two", "Replaced whole.phext: 7 bytes"},
		{"DELETE", "/api/v2/documents/whole", "", "Removed whole.phext: 7 bytes"},
	}
	state := func() string {
		return fmt.Sprint(e.Exported(key, "notes"), e.Exported(key, "whole"), e.Do(key, "GET", "/api/v2/documents", "").Body)
	}
	var first []Reply
	repeat := func() {
		t.Helper()
		before := state()
		for i, was := range first {
			w := writes[i]
			got := e.Do(key, w.method, w.path, w.body, fmt.Sprintf(`Idempotency-Key: "key-%d"`, i)) // bare or quoted, it is one key
			if got.Status != 200 || got.Body != was.Body || got.Header.Get("SQ-Replayed") != "true" ||
				got.Header.Get("SQ-Seq") != was.Header.Get("SQ-Seq") || got.Header.Get("ETag") != was.Header.Get("ETag") {
				t.Errorf("%s %s again: %d %q %v, was %q %v", w.method, w.path, got.Status, got.Body, got.Header, was.Body, was.Header)
			}
			got = e.Do(key, "POST", "/insert?p=notes&c="+origin, "another", fmt.Sprintf("Idempotency-Key: key-%d", i))
			if got.Status != 422 || !strings.Contains(got.Body, "used for another request") {
				t.Errorf("another request with the key of %s %s: %d %q", w.method, w.path, got.Status, got.Body)
			}
		}
		if after := state(); after != before {
			t.Errorf("the repetitions have changed\n%s\nto\n%s", before, after)
		}
	}
	for i, w := range writes {
		got := e.Do(key, w.method, w.path, w.body, fmt.Sprint("Idempotency-Key: key-", i))
		if got.Status != 200 || got.Body != w.want || got.Header.Get("SQ-Replayed") != "" {
			t.Fatalf("%s %s: %d %q, replayed %q", w.method, w.path, got.Status, got.Body, got.Header.Get("SQ-Replayed"))
		}
		first = append(first, got)
		repeat()
	}
	e.Want(key, "POST", "/insert?p=notes&c=1.1.1/1.1.1/1.1.2", "since", 200, "Inserted 5 bytes")
	e.Want(key, "PUT", "/api/v2/documents/whole", "since", 200, "Replaced whole.phext: 5 bytes")
	repeat()
	e.KillWorkers()
	repeat()
	e.Quit()
	e.Boot()
	repeat()

	// Another tenant's key of the same name is another key; a read has none.
	got := e.Do("tok-beta", "POST", "/insert?p=notes&c="+origin, "text", "Idempotency-Key: key-0")
	if got.Status != 200 || got.Header.Get("SQ-Replayed") != "" {
		t.Errorf("another tenant: %d %q", got.Status, got.Body)
	}
	if got := e.Do(key, "GET", "/select?p=notes&c="+origin, "", "Idempotency-Key: a, b"); got.Status != 200 || got.Body != "textmore" {
		t.Errorf("a read with a malformed key: %d %q", got.Status, got.Body)
	}
	for _, headers := range [][]string{{"Idempotency-Key: "}, {"Idempotency-Key: a, b"}, {"Idempotency-Key: a", "Idempotency-Key: a"}} {
		if got := e.Do(key, "POST", "/insert?p=notes&c="+origin, "x", headers...); got.Status != 400 || !strings.HasPrefix(got.Body, "header Idempotency-Key: ") {
			t.Errorf("%q: %d %q, want 400", headers, got.Status, got.Body)
		}
	}
	if got := e.Do("", "OPTIONS", "/insert", ""); !strings.Contains(got.Header.Get("Access-Control-Allow-Headers"), "Idempotency-Key") ||
		!strings.Contains(got.Header.Get("Access-Control-Expose-Headers"), "SQ-Replayed") {
		t.Errorf("a browser may not send or see it: %v", got.Header)
	}
}

// inserters append numbers, each to a scroll of its own, with a key for each number,
// and send each again until it is acknowledged.
type inserters struct {
	e    *Edge
	next []int // of each: the number that is not acknowledged yet

	stop     atomic.Bool
	group    sync.WaitGroup
	acks     atomic.Int64
	more     chan struct{} // signalled at each acknowledgement
	replayed atomic.Int64
	errors   atomic.Int64 // answers 502 and 503
}

func newInserters(e *Edge, n int) *inserters {
	return &inserters{e: e, next: make([]int, n), more: make(chan struct{}, 1)}
}

func (in *inserters) scroll(i int) string { return fmt.Sprintf("1.1.1/1.1.1/1.1.%d", 1+i) }

// Run lets them insert until Halt. Where patient, they take 502 and 503 for an
// answer, and come back.
func (in *inserters) Run(patient bool) {
	in.stop.Store(false)
	for i := range in.next {
		in.group.Go(func() {
			for !in.stop.Load() {
				n := in.next[i]
				got, err := in.e.Try("tok-alpha", "POST", "/insert?p=once&c="+in.scroll(i), fmt.Sprint(n, " "), fmt.Sprintf("Idempotency-Key: %d-%d", i, n))
				switch {
				case err == nil && got.Status == 200:
					in.next[i]++
					if got.Header.Get("SQ-Replayed") != "" {
						in.replayed.Add(1)
					}
					in.acks.Add(1)
					select {
					case in.more <- struct{}{}:
					default:
					}
				case err == nil && patient && (got.Status == 502 || got.Status == 503):
					in.errors.Add(1)
				default:
					in.e.t.Errorf("insert %d of client %d: %v, %d %q", n, i, err, got.Status, got.Body)
					return
				}
			}
		})
	}
}

func (in *inserters) AwaitMore(n int) {
	in.e.t.Helper()
	timeout := time.After(time.Minute)
	for until := in.acks.Load() + int64(n); in.acks.Load() < until; {
		select {
		case <-in.more:
		case <-timeout:
			in.e.t.Fatalf("no more inserts are acknowledged, after %d", in.acks.Load())
		}
	}
}

func (in *inserters) Halt() {
	in.stop.Store(true)
	in.group.Wait()
}

// Verify finds every number exactly once, in order. One that was on its way when
// the clients halted may be there.
func (in *inserters) Verify() {
	in.e.t.Helper()
	scrolls := in.e.Exported("tok-alpha", "once")
	for i, next := range in.next {
		want := ""
		for n := range next {
			want += fmt.Sprint(n, " ")
		}
		if got := scrolls[in.scroll(i)]; got != want && got != want+fmt.Sprint(next, " ") {
			in.e.t.Fatalf("client %d had %d inserts acknowledged, its scroll is %q", i, next, got)
		}
	}
}

// kill kills the worker.
func (in *inserters) kill() {
	in.e.t.Helper()
	must(in.e.t, syscall.Kill(in.e.Worker("alpha"), syscall.SIGKILL))
}

func TestNoClientSeesAWorkerDieUnderWritesWithIdempotencyKeys(t *testing.T) {
	e := Start(t, Setup{Plain: true})
	in := newInserters(e, 16)
	in.Run(false)
	// More deaths in such a short time are a crash loop, whose backoff no request
	// outlasts.
	for range 3 {
		in.AwaitMore(300)
		in.kill()
	}
	in.AwaitMore(300)
	in.Halt()
	in.Verify()
	again := e.Metric("sq_writes_repeated_total")
	t.Logf("%d inserts, %v sent again by the edge, %d of them made before", in.acks.Load(), again, in.replayed.Load())
	if again == 0 {
		t.Error("nothing was sent again: no worker had a write when it died")
	}
}

func TestKillStormMakesWritesWithIdempotencyKeysExactlyOnce(t *testing.T) {
	e := Start(t, Setup{Plain: true})
	in := newInserters(e, 16)
	for cycle := range 12 {
		in.Run(true)
		in.AwaitMore(50 + 37*cycle)
		if cycle%6 == 5 {
			in.Halt()
			e.Quit() // so that the keys are in no log any more
			e.Boot()
		} else {
			in.kill()
			in.AwaitMore(50) // by the next worker
			in.Halt()
		}
		in.Verify()
	}
	t.Logf("%d inserts, %d of them made before, %d answers 502 and 503", in.acks.Load(), in.replayed.Load(), in.errors.Load())
}

func TestLargeWriteWithAnIdempotencyKeyIsLeftToItsClientToRepeat(t *testing.T) {
	e := Start(t, Setup{})
	alpha := e.Tenant("alpha")
	e.Want(alpha.Key, "POST", "/insert?p=kept&c="+origin, "kept", 200, "Inserted 4 bytes")
	text := strings.Repeat("x", 3<<20)
	upload := e.Upload(alpha, "large", text[:2<<20], "Idempotency-Key: large")
	must(t, syscall.Kill(e.Worker("alpha"), syscall.SIGKILL))
	if got := upload.Wait(t); got.Status != 502 || !strings.Contains(got.Body, "unknown whether") || !strings.Contains(got.Body, "same Idempotency-Key") {
		t.Fatalf("the upload got %d %q, want 502 that says how to go on", got.Status, got.Body)
	}
	for _, replayed := range []string{"", "true"} {
		got := e.Do(alpha.Key, "PUT", "/api/v2/documents/large", text, "Idempotency-Key: large")
		if got.Status != 200 || got.Header.Get("SQ-Replayed") != replayed {
			t.Errorf("repeated: %d %q, replayed %q, want %q", got.Status, clip(got.Body), got.Header.Get("SQ-Replayed"), replayed)
		}
	}
}

// TestWriteWithAnIdempotencyKeyIsSentAgainToTheNextWorker: small or large, with a
// length or without, as long as it can be kept.
func TestWriteWithAnIdempotencyKeyIsSentAgainToTheNextWorker(t *testing.T) {
	text := strings.Repeat("x", 1<<20)
	for _, write := range []struct {
		method, path, body string
		chunked            bool
		want               string
	}{
		{"GET", "/insert?s=x&p=notes&c=1.1.1/1.1.1/1.1.2", "", false, "Inserted 1 bytes"},
		{"POST", "/insert?p=notes&c=1.1.1/1.1.1/1.1.2", text, false, "Inserted 1048576 bytes"},
		{"POST", "/insert?p=notes&c=1.1.1/1.1.1/1.1.2", text, true, "Inserted 1048576 bytes"},
		{"DELETE", "/api/v2/documents/notes", "", false, "Removed notes.phext: 4 bytes"},
	} {
		e := Start(t, Setup{}) // see TestReadsOutliveTheirWorker
		size := len(text)
		for attempt := 1; e.Metric("sq_writes_repeated_total") == 0; attempt++ {
			if attempt == 20 {
				t.Fatalf("%s %s: never sent again", write.method, write.path)
			}
			e.Want("tok-alpha", "PUT", "/api/v2/documents/notes", "text", 200, "Replaced notes.phext: 4 bytes")
			got := killWith(e, attempt, func() (Reply, error) {
				var body io.Reader = strings.NewReader(write.body)
				if write.chunked {
					body = io.MultiReader(body) // whose length net/http does not know
				}
				r, err := http.NewRequest(write.method, e.url+write.path, body)
				if err != nil {
					return Reply{}, err
				}
				r.Header.Set("Authorization", "Bearer tok-alpha")
				r.Header.Set("Idempotency-Key", fmt.Sprint("attempt-", attempt))
				resp, err := e.client.Do(r)
				if err != nil {
					return Reply{}, err
				}
				defer resp.Body.Close()
				answer, err := io.ReadAll(resp.Body)
				return Reply{Status: resp.StatusCode, Header: resp.Header, Body: string(answer)}, err
			})
			if got.Status != 200 || got.Body != write.want {
				t.Fatalf("%s %s: %d %q, want %q", write.method, write.path, got.Status, got.Body, write.want)
			}
		}
		if write.method != "DELETE" {
			if write.body == "" {
				size = 1
			}
			if got := e.Exported("tok-alpha", "notes"); len(got) != 2 || len(got["1.1.1/1.1.1/1.1.2"]) != size {
				t.Errorf("%s %s: %d scrolls, the new one has %d bytes, want %d", write.method, write.path, len(got), len(got["1.1.1/1.1.1/1.1.2"]), size)
			}
		}
	}
}
