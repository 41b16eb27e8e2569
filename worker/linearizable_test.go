package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// call is what a client asked for.
type call struct {
	op, target string // target is the query, so one for each scroll
	text       string // holds a token that no other call's text holds
}

// outcome is what a client was told, if anything.
type outcome struct {
	unknown bool // no answer came: the call may have taken effect, or may yet
	body    string
	etag    string
	seq     uint64
}

// scroll is the state that the model knows of one scroll.
type scroll struct {
	text string
	seq  uint64 // of the last change whose answer came
}

// scrollModel says which answers one scroll may give. Partitioned by scroll, it
// describes them all: no call spans two.
var scrollModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byTarget := map[string][]porcupine.Operation{}
		for _, o := range history {
			target := o.Input.(call).target
			byTarget[target] = append(byTarget[target], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byTarget {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return scroll{} },
	Step: func(state, input, output any) (bool, any) {
		s, c, out := state.(scroll), input.(call), output.(outcome)
		next, body := s, ""
		switch c.op {
		case "select":
			body = s.text
		case "insert":
			next.text += c.text
			body = fmt.Sprintf("Inserted %d bytes", len(c.text))
		case "update":
			next.text = c.text
			body = fmt.Sprintf("Updated %d bytes", len(c.text))
		case "delete":
			next.text = ""
			body = fmt.Sprintf("Removed %d bytes", len(s.text))
		}
		if out.unknown {
			return true, next
		}
		etag := ""
		if next.text != "" {
			etag = `"` + phext.Checksum([]byte(next.text)) + `"`
		}
		// A sequence is the document's, so it may have gone on without the scroll.
		ordered := out.seq >= s.seq && (out.seq > s.seq || next.text == s.text)
		if c.op != "select" {
			next.seq = out.seq
		}
		return out.body == body && out.etag == etag && ordered, next
	},
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%+v: %+v", input, output)
	},
}

// service is a tenant whose workers come and go behind one socket, as with the
// edge: what comes while there is none waits.
type service struct {
	dir    string
	socket *os.File
	worker *process
	start  time.Time // of all histories' clock
}

func newService(t *testing.T) *service {
	s := &service{dir: t.TempDir(), socket: mustListen(t), start: time.Now()}
	s.startWorker(t)
	return s
}

func (s *service) startWorker(t *testing.T) {
	t.Helper()
	s.worker = startWorkerAt(t, s.dir, s.socket)
	if !strings.HasPrefix(s.worker.ready, wire.Ready+" ") {
		t.Fatalf("a worker does not open: %s", s.worker.ready)
	}
}

func (s *service) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	s.worker.Process.Signal(sig)
	if err := s.worker.Wait(); err != nil && sig != syscall.SIGKILL {
		t.Fatalf("the worker ended with %v; stderr: %s", err, s.worker.stderr)
	}
	s.worker.lifeline.Close()
}

// do makes a call and notes what came of it. A call without an answer ends when
// the history does.
func (s *service) do(client *http.Client, c call) (o porcupine.Operation, err error) {
	method := http.MethodPost
	if c.op == "select" {
		method = http.MethodGet
	}
	req, err := http.NewRequest(method, "http://sq/"+c.op+"?"+c.target, strings.NewReader(c.text))
	if err != nil {
		return o, err
	}
	req.Header.Set(wire.HeaderQuota, "0")
	o = porcupine.Operation{Input: c, Call: time.Since(s.start).Nanoseconds()}
	out := outcome{unknown: true}
	resp, lost := client.Do(req)
	if lost == nil {
		var body []byte
		body, lost = io.ReadAll(resp.Body)
		resp.Body.Close()
		if lost == nil && resp.StatusCode != http.StatusOK {
			return o, fmt.Errorf("%s of %s: %s %q", c.op, c.target, resp.Status, body)
		}
		if lost == nil {
			out = outcome{body: string(body), etag: resp.Header.Get("ETag")}
			if out.seq, err = strconv.ParseUint(resp.Header.Get("SQ-Seq"), 10, 64); err != nil {
				return o, fmt.Errorf("%s of %s: SQ-Seq: %w", c.op, c.target, err)
			}
		}
	}
	o.Output, o.Return = out, time.Since(s.start).Nanoseconds()
	return o, nil
}

// record lets clients work on the given scrolls, each with a transport of its
// own, and meanwhile ends the worker some times, mostly by kill -9. It returns
// what the clients saw, and last what each scroll held.
func (s *service) record(t *testing.T, targets []string, transports []http.RoundTripper, kills int, seed uint64) (history []porcupine.Operation) {
	t.Helper()
	var (
		all     sync.WaitGroup
		stopped atomic.Bool
		seen    = make(chan porcupine.Operation, 1<<12)
		failed  = make(chan error, len(transports))
	)
	for n, transport := range transports {
		all.Go(func() {
			client := &http.Client{Transport: transport}
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			for i := 0; !stopped.Load(); i++ {
				c := call{op: "select", target: targets[r.IntN(len(targets))]}
				switch r.IntN(12) {
				case 0, 1, 2:
					c.op, c.text = "insert", fmt.Sprintf("%d.%d ", n, i)
				case 3, 4:
					c.op, c.text = "update", fmt.Sprintf("%d.%d ", n, i)
				case 5:
					c.op = "delete"
				}
				o, err := s.do(client, c)
				if err == nil && r.IntN(20) == 0 {
					// Makes checkpoints of the documents due; no part of the history.
					document, _, _ := strings.Cut(c.target, "&")
					_, err = s.do(client, call{op: "update", target: document + "&c=acme.9.9.9/9.9.9/9.9.9", text: strings.Repeat("x", r.IntN(200_000))})
				}
				if err != nil {
					failed <- err
					return
				}
				seen <- o
			}
		})
	}
	defer stopped.Store(true)
	r := rand.New(rand.NewPCG(seed, 1<<32))
	await := func(n int) {
		for range n {
			select {
			case o := <-seen:
				history = append(history, o)
			case err := <-failed:
				t.Fatal(err)
			}
		}
	}
	for kill := range kills {
		await(1 + r.IntN(300))
		if kill%4 == 3 {
			s.end(t, syscall.SIGTERM)
		} else {
			s.end(t, syscall.SIGKILL)
		}
		s.startWorker(t)
	}
	await(300)
	stopped.Store(true)
	go func() {
		all.Wait()
		close(seen)
		close(failed)
	}()
	for o := range seen {
		history = append(history, o)
	}
	for err := range failed {
		t.Fatal(err)
	}
	for _, target := range targets {
		o, err := s.do(s.worker.client, call{op: "select", target: target})
		if err != nil {
			t.Fatal(err)
		}
		history = append(history, o)
	}
	return settle(history)
}

// settle leaves reads without an answer out, which say nothing, and keeps writes
// without one open to the end: nobody knows whether, or when, they happened.
func settle(history []porcupine.Operation) []porcupine.Operation {
	end := int64(0)
	for _, o := range history {
		end = max(end, o.Return)
	}
	for i := range history {
		if history[i].Output.(outcome).unknown {
			history[i].Return = end + 1
		}
	}
	return slices.DeleteFunc(history, func(o porcupine.Operation) bool {
		return o.Input.(call).op == "select" && o.Output.(outcome).unknown
	})
}

// scrollsOf returns the queries of a round's scrolls, which are empty before it.
func scrollsOf(round int) (targets []string) {
	for i := range 16 {
		targets = append(targets, fmt.Sprintf("p=doc%d&c=acme.%d.1.1/1.1.1/1.1.%d", i%3, 1+round, 1+i))
	}
	return targets
}

func (s *service) transports(n int) (transports []http.RoundTripper) {
	for range n {
		transports = append(transports, unixClient(s.worker.path).Transport)
	}
	return transports
}

const checkLimit = 2 * time.Minute // of the checker; it needs fractions of a second

// TestLinearizable lets clients read and write the same scrolls at once while
// their worker is killed again and again. There must be one order of all calls,
// each between its start and its end, in which a scroll is a plain string.
func TestLinearizable(t *testing.T) {
	rounds := 3
	if os.Getenv("SQ_TEST") == "nightly" {
		rounds = 100
	}
	const kills = 10
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := newService(t)
	operations, unanswered, checking := 0, 0, time.Duration(0)
	for round := range rounds {
		history := s.record(t, scrollsOf(round), s.transports(8), kills, seed+uint64(round))
		for _, o := range history {
			if o.Output.(outcome).unknown {
				unanswered++
			}
		}
		operations += len(history)
		start := time.Now()
		result, info := porcupine.CheckOperationsVerbose(scrollModel, history, checkLimit)
		checking += time.Since(start)
		if result != porcupine.Ok {
			report(t, info)
			t.Fatalf("round %d: the history of %d operations is %s", round, len(history), result)
		}
		if stale := plantStaleRead(t, history); porcupine.CheckOperationsTimeout(scrollModel, stale, checkLimit) != porcupine.Illegal {
			t.Fatalf("round %d: the checker does not see a stale read", round)
		}
	}
	t.Logf("%d operations, %d of them writes without an answer, %d workers ended, checked in %v",
		operations, unanswered, rounds*kills, checking)
	if unanswered == 0 {
		t.Error("no write was under way when a worker was killed")
	}
}

// report keeps a picture of a history that is not linearizable.
func report(t *testing.T, info porcupine.LinearizationInfo) {
	t.Helper()
	f, err := os.CreateTemp("", "history-*.html")
	if err == nil {
		err = porcupine.Visualize(scrollModel, info, f)
		t.Logf("see %s", f.Name())
		f.Close()
	}
	if err != nil {
		t.Log(err)
	}
}

// plantStaleRead returns the history with one answer of a select replaced: by
// the text that another select was given before a write which was over by then.
func plantStaleRead(t *testing.T, history []porcupine.Operation) []porcupine.Operation {
	t.Helper()
	known := func(o porcupine.Operation, ops ...string) bool {
		return !o.Output.(outcome).unknown && slices.Contains(ops, o.Input.(call).op)
	}
	for _, part := range scrollModel.Partition(history) {
		for _, early := range part {
			for _, write := range part {
				for _, late := range part {
					stale := early.Output.(outcome)
					// Texts never come back, but emptiness does.
					if !known(early, "select") || stale.body == "" || !known(write, "insert", "update") || !known(late, "select") ||
						early.Return >= write.Call || write.Return >= late.Call {
						continue
					}
					planted := slices.Clone(history)
					i := slices.IndexFunc(planted, func(o porcupine.Operation) bool { return o.Call == late.Call && o.Input == late.Input })
					stale.seq = late.Output.(outcome).seq
					planted[i].Output = stale
					return planted
				}
			}
		}
	}
	t.Fatal("the history has no place for a stale read")
	return nil
}

// staleCache answers a repeated GET as it was answered first.
type staleCache struct {
	http.RoundTripper
	answers map[string][]byte
	headers map[string]http.Header
}

func (c *staleCache) RoundTrip(r *http.Request) (*http.Response, error) {
	key := r.URL.String()
	body, ok := c.answers[key]
	if r.Method == http.MethodGet && ok {
		return &http.Response{StatusCode: http.StatusOK, Header: c.headers[key], Body: io.NopCloser(bytes.NewReader(body))}, nil
	}
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil || r.Method != http.MethodGet {
		return resp, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	c.answers[key], c.headers[key] = body, resp.Header
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}

// TestStaleCacheIsSeen is the control of TestLinearizable: one of its clients
// reads through a cache that nobody invalidates.
func TestStaleCacheIsSeen(t *testing.T) {
	s := newService(t)
	transports := s.transports(4)
	transports[0] = &staleCache{transports[0], map[string][]byte{}, map[string]http.Header{}}
	history := s.record(t, scrollsOf(0), transports, 0, 1)
	if result := porcupine.CheckOperationsTimeout(scrollModel, history, checkLimit); result != porcupine.Illegal {
		t.Errorf("a history of %d operations with stale reads is %s, want %s", len(history), result, porcupine.Illegal)
	}
}
