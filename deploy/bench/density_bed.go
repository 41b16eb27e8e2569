package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// burstTimeout is the edge's queue_timeout. Its default bounds what a client
	// waits for its tenant's turn; how long thousands at once take is a matter of
	// the machine.
	burstTimeout   = 2 * time.Minute
	defaultTimeout = 10 * time.Second

	denseAdmin = "pmb-admin-bench"

	documentBytes = 4 << 10 // what each tenant that is woken has written
)

// denseBed is an edge of its own with many tenants.
type denseBed struct {
	testbed
	address  string
	tenants  int // in tenants.json
	made     int // data directories
	prepared int // tenants that have written
	changes  int // of tenants.json
	http     *http.Client
}

func newDenseBed(bin string) (*denseBed, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer free.Close()
	dir, err := os.MkdirTemp("", "sqb")
	if err != nil {
		return nil, err
	}
	b := &denseBed{testbed: testbed{dir: dir, bin: bin}, address: free.Addr().String(), http: &http.Client{Timeout: time.Minute}}
	err = os.WriteFile(filepath.Join(dir, "Caddyfile"), fmt.Appendf(nil, `{
	default_bind 127.0.0.1
	admin unix/%[1]s/admin
	sq {
		config %[1]s/tenants.json
		data_root %[1]s/root
		run_dir %[1]s/run
		worker %[2]s/sq-worker
		queue_timeout %[4]v
		%[5]s
	}
	servers %[3]s {
		listener_wrappers {
			sq
		}
	}
}
http://%[3]s {
	sq_admin
	sq
}
`, dir, bin, b.address, burstTimeout, os.Getenv("SQ_BENCH_OPTIONS")), 0o600)
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// serve starts an edge with n tenants, none of whom it has seen, and waits until it
// serves.
func (b *denseBed) serve(n int) error {
	for ; b.made < n; b.made++ {
		if err := os.MkdirAll(b.dataDir(b.made), 0o700); err != nil {
			return err
		}
	}
	b.tenants = n
	if err := b.writeTenants(b.nextTenants()); err != nil {
		return err
	}
	// In there are the counters of calls.
	if err := os.RemoveAll(filepath.Join(b.dir, "root")); err != nil {
		return err
	}
	if err := b.launch(); err != nil {
		return err
	}
	for try := 0; ; try++ {
		resp, err := b.http.Get("http://" + b.address + "/healthz")
		if err == nil {
			resp.Body.Close()
			return nil
		}
		if try == 300 {
			return fmt.Errorf("the edge does not serve: %w\n%s", err, b.log())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// nextTenants returns the next content of tenants.json, with one tenant's quota
// changed.
func (b *denseBed) nextTenants() []byte {
	b.changes++
	var text bytes.Buffer
	fmt.Fprintf(&text, "{\"admin_key\": %q, \"tenants\": [\n", denseAdmin)
	for i := range b.tenants {
		quota, comma := 1000, ","
		if i == b.tenants/2 {
			quota += b.changes
		}
		if i == b.tenants-1 {
			comma = ""
		}
		fmt.Fprintf(&text, "  {\"id\": \"tenant-%d\", \"api_key\": %q, \"data_dir\": %q, \"quota_mb\": %d, \"enabled\": true}%s\n", i, denseKey(i), b.dataDir(i), quota, comma)
	}
	text.WriteString("]}\n")
	return text.Bytes()
}

// writeTenants replaces tenants.json as an editor would.
func (b *denseBed) writeTenants(text []byte) error {
	path := filepath.Join(b.dir, "tenants.json")
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func denseKey(i int) string { return fmt.Sprintf("pmb-v1-%032x", i) }

// reloadLine is what the edge's log says of a change of tenants.json.
const reloadLine = "tenants.json is in force"

// change gives tenants.json another content, waits until the edge says that it is in
// force, and returns how long that took it. It reads no more of the log than is new:
// the log of a thousand workers read every few milliseconds would hold up the
// requests that the change is said to delay.
func (b *denseBed) change(text []byte) (time.Duration, error) {
	seen := b.logSize()
	if err := b.writeTenants(text); err != nil {
		return 0, err
	}
	for range 1000 {
		time.Sleep(5 * time.Millisecond)
		for line := range bytes.Lines(b.logFrom(seen)) {
			var entry struct {
				Msg  string  `json:"msg"`
				Took float64 `json:"took"` // seconds
			}
			if json.Unmarshal(line, &entry) == nil && entry.Msg == reloadLine {
				return time.Duration(entry.Took * float64(time.Second)), nil
			}
		}
	}
	return 0, fmt.Errorf("the edge's log does not say that %s", reloadLine)
}

// limitsLine is what the edge's log says of the number of its workers.
func (b *denseBed) limitsLine() string {
	for line := range bytes.Lines(b.log()) {
		var entry struct {
			Msg, By              string
			Workers              int
			Descriptors, Threads uint64
			Memory               uint64
		}
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "workers are limited" {
			return fmt.Sprintf("at most %d workers, by %s; descriptors %d, threads %d, memory %d MiB", entry.Workers, entry.By, entry.Descriptors, entry.Threads, entry.Memory>>20)
		}
	}
	return "unknown"
}

// admin sends a request with the admin key and returns the answer.
func (b *denseBed) admin(method, path string) ([]byte, error) {
	r, err := http.NewRequest(method, "http://"+b.address+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", denseAdmin)
	resp, err := b.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return text, err
}

// atOnceBy is how many connections wake and park tenants where it is not that
// which is measured.
const atOnceBy = 16

// wake sends a request as each of the tenants from to to-1.
func (b *denseBed) wake(from, to int) error {
	if from == to {
		return nil
	}
	clients, err := b.clients(min(atOnceBy, to-from))
	if err != nil {
		return err
	}
	defer closeAll(clients)
	return each(from, to, len(clients), func(by, i int) error {
		_, err := clients[by].first(b.selectOf(i))
		return err
	})
}

// prepare has the first n tenants write their document, as those have that were
// awake before, and has them sleep.
func (b *denseBed) prepare(n int) error {
	if n <= b.prepared {
		return nil
	}
	clients, err := b.clients(atOnceBy)
	if err != nil {
		return err
	}
	defer closeAll(clients)
	text := strings.Repeat("x", documentBytes)
	err = each(b.prepared, n, len(clients), func(by, i int) error {
		_, err := clients[by].first(fmt.Appendf(nil, "POST /update?p=bench&c=%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
			coordinate(1), b.address, denseKey(i), len(text), text))
		return err
	})
	if err != nil {
		return err
	}
	b.prepared = n
	return b.parkAll()
}

// park ends a tenant's worker, if there is one.
func (b *denseBed) park(i int) error {
	_, err := b.admin("POST", fmt.Sprintf("/api/v2/admin/workers/tenant-%d/park", i))
	return err
}

// parkAll ends all workers.
func (b *denseBed) parkAll() error {
	awake, err := b.workers()
	if err != nil {
		return err
	}
	return each(0, len(awake), atOnceBy, func(_, i int) error {
		_, err := b.admin("POST", "/api/v2/admin/workers/"+awake[i].Tenant+"/park")
		return err
	})
}

// each does do for each number from from to to-1, by so many at a time.
func each(from, to, by int, do func(by, i int) error) error {
	var group sync.WaitGroup
	var mu sync.Mutex
	var failure error
	numbers := make(chan int)
	for n := range by {
		group.Go(func() {
			for i := range numbers {
				if err := do(n, i); err != nil {
					mu.Lock()
					failure = err
					mu.Unlock()
				}
			}
		})
	}
	for i := from; i < to; i++ {
		numbers <- i
	}
	close(numbers)
	group.Wait()
	return failure
}

// client is a connection to the edge on which a request was answered already.
type client struct {
	net.Conn
	r *bufio.Reader
}

// clients makes n of them.
func (b *denseBed) clients(n int) ([]*client, error) {
	var clients []*client
	for range n {
		conn, err := net.Dial("tcp", b.address)
		if err != nil {
			closeAll(clients)
			return nil, err
		}
		c := &client{conn, bufio.NewReaderSize(conn, 4096)}
		clients = append(clients, c)
		if _, err := c.first(fmt.Appendf(nil, "GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n", b.address)); err != nil {
			closeAll(clients)
			return nil, err
		}
	}
	return clients, nil
}

func closeAll(clients []*client) {
	for _, c := range clients {
		c.Close()
	}
}

// first sends a request and returns the time to the first byte of its answer,
// which must be a 200.
func (c *client) first(request []byte) (time.Duration, error) {
	began := time.Now()
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	if _, err := c.r.Peek(1); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, readAnswer(c.r)
}

func (b *denseBed) selectOf(i int) []byte {
	return fmt.Appendf(nil, "GET /select?p=bench&c=%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", coordinate(1), b.address, denseKey(i))
}

// atOnce sends a request as each of the tenants from from on, one on each
// connection, all at once. The error is that of one that failed.
func (b *denseBed) atOnce(clients []*client, from int) (times []time.Duration, failed int, failure error) {
	var mu sync.Mutex
	var group sync.WaitGroup
	start := make(chan struct{})
	for n, c := range clients {
		request := b.selectOf(from + n)
		group.Go(func() {
			<-start
			took, err := c.first(request)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed, failure = failed+1, err
				return
			}
			times = append(times, took)
		})
	}
	close(start)
	group.Wait()
	return times, failed, failure
}

// countSeries counts the series that name a tenant.
func countSeries(text []byte) int { return strings.Count(string(text), `tenant="tenant-`) }

// streamConns is on how many connections a stream is sent, on each of them every
// pace, so that there is a request on its way in most milliseconds.
const streamConns = 4

// stream is the steady requests of one tenant.
type stream struct {
	done  chan struct{}
	once  sync.Once
	group sync.WaitGroup

	mu   sync.Mutex
	sent []sent
	err  error
}

// sent is one of a stream's requests: when it should have been sent, and how
// long after that its answer was there.
type sent struct {
	due  time.Time
	took time.Duration
}

func (b *denseBed) startStream(tenant int) (*stream, error) {
	clients, err := b.clients(streamConns)
	if err != nil {
		return nil, err
	}
	s := &stream{done: make(chan struct{})}
	began := time.Now()
	for n, c := range clients {
		s.group.Go(func() {
			defer c.Close()
			for due := began.Add(time.Duration(n) * pace / streamConns); ; due = due.Add(pace) {
				time.Sleep(time.Until(due))
				select {
				case <-s.done:
					return
				default:
				}
				_, err := c.first(b.selectOf(tenant))
				s.mu.Lock()
				s.sent = append(s.sent, sent{due, time.Since(due)})
				if err != nil {
					s.err = err
				}
				s.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	return s, nil
}

// settle waits until what was sent is answered.
func (s *stream) settle() { time.Sleep(10 * pace) }

// slowest returns the longest that a request took which was due since then.
func (s *stream) slowest(since time.Time) (slowest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.sent) - 1; i >= 0 && s.sent[i].due.After(since.Add(-10*pace)); i-- {
		if s.sent[i].due.After(since) {
			slowest = max(slowest, s.sent[i].took)
		}
	}
	return slowest
}

func (s *stream) stop() error {
	s.once.Do(func() { close(s.done) })
	s.group.Wait()
	return s.err
}
