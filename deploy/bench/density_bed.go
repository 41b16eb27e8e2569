package main

import (
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
	spares   int // of the edge
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
		%[4]s
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
`, dir, bin, b.address, os.Getenv("SQ_BENCH_OPTIONS")), 0o600)
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

// limits is what the edge's log says of the number of its workers.
type limits struct {
	Msg, By              string
	Workers, Spares      int
	Descriptors, Threads uint64
	Memory               uint64
}

func (b *denseBed) limits() (l limits) {
	for line := range bytes.Lines(b.log()) {
		if json.Unmarshal(line, &l) == nil && l.Msg == "workers are limited" {
			return l
		}
	}
	return limits{}
}

// restPoll is how often rest looks, and how long it waits at least.
const restPoll = 20 * time.Millisecond

// rest waits until the edge has all spare workers that it is to have, as it has where
// tenants do not wake one right after the other.
func (b *denseBed) rest() error {
	if b.spares == 0 {
		b.spares = b.limits().Spares
	}
	for range 500 {
		time.Sleep(restPoll)
		text, err := b.admin("GET", "/api/v2/metrics")
		if err != nil {
			return err
		}
		if n, _ := numberAfter(text, "\nsq_workers_spare "); n == b.spares {
			return nil
		}
	}
	return fmt.Errorf("the edge does not have %d spare workers", b.spares)
}

// limitsLine says what bounds the edge's workers.
func (b *denseBed) limitsLine() string {
	l := b.limits()
	return fmt.Sprintf("at most %d workers, by %s, and %d spare ones; descriptors %d, threads %d, memory %d MiB", l.Workers, l.By, l.Spares, l.Descriptors, l.Threads, l.Memory>>20)
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

// countSeries counts the series that name a tenant.
func countSeries(text []byte) int { return strings.Count(string(text), `tenant="tenant-`) }
