package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The testbed's addresses and keys; it listens on loopback alone.
const (
	edgeAddress  = "127.0.0.1:18080" // the sq handler
	proxyAddress = "127.0.0.1:18081" // reverse_proxy to the worker's socket
	tenant       = "bench"
	key          = "pmb-v1-00000000000000000000000000000000"
)

// scrollBytes is the length of the scrolls in the documents updates go into,
// and textBytes that of the text read and written.
const (
	scrollBytes = 1000
	textBytes   = 100
)

// testbed is an edge of its own, in a temporary directory.
type testbed struct {
	dir   string
	bin   string // where the binaries are
	caddy *exec.Cmd
}

func newTestbed() (*testbed, error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "sqb")
	if err != nil {
		return nil, err
	}
	b := &testbed{dir: dir, bin: bin}
	if err := b.start(); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *testbed) start() error {
	data := filepath.Join(b.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	for _, d := range documents {
		if err := os.WriteFile(filepath.Join(data, d.name+".phext"), makeDocument(d.bytes), 0o600); err != nil {
			return err
		}
	}
	entries := []string{fmt.Sprintf(`{"id": %q, "api_key": %q, "data_dir": %q}`, tenant, key, data)}
	for i := range neighbours {
		dir := filepath.Join(b.dir, fmt.Sprint("neighbour", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		entries = append(entries, fmt.Sprintf(`{"id": "neighbour%d", "api_key": %q, "data_dir": %q}`, i, neighbourKey(i), dir))
	}
	files := map[string]string{
		"tenants.json": fmt.Sprintf(`{"admin_key": "pmb-admin-bench", "tenants": [%s]}`, strings.Join(entries, ", ")),
		"Caddyfile": fmt.Sprintf(`{
	default_bind 127.0.0.1
	admin unix/%[1]s/admin
	sq {
		config %[1]s/tenants.json
		data_root %[1]s/root
		run_dir %[1]s/run
		worker %[2]s/sq-worker
		%[6]s
	}
	servers {
		listener_wrappers {
			sq
		}
	}
}
http://%[3]s {
	sq_admin
	sq
}
http://%[4]s {
	reverse_proxy unix/%[1]s/run/%[5]s.sock
}
`, b.dir, b.bin, edgeAddress, proxyAddress, tenant, os.Getenv("SQ_BENCH_OPTIONS")),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	if err := b.launch(); err != nil {
		return err
	}
	// The first write makes the scroll that is read, and the worker.
	for try := 0; ; try++ {
		err := b.writeAs(key)
		if err == nil {
			return nil
		}
		if try == 100 {
			return fmt.Errorf("the edge does not serve: %w\n%s", err, b.log())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// launch starts the edge on the Caddyfile in b.dir.
func (b *testbed) launch() error {
	log, err := os.Create(filepath.Join(b.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	b.caddy = exec.Command(filepath.Join(b.bin, "caddy"), "run", "--config", filepath.Join(b.dir, "Caddyfile"))
	b.caddy.Env = []string{"HOME=" + b.dir}
	b.caddy.Stdout, b.caddy.Stderr = log, log
	if err := b.caddy.Start(); err != nil {
		return fmt.Errorf("starting the edge (./xcaddy.sh build makes it): %w", err)
	}
	return nil
}

func (b *testbed) log() []byte { return b.logFrom(0) }

// logFrom returns what the edge has logged behind so many bytes.
func (b *testbed) logFrom(offset int64) []byte {
	f, err := os.Open(filepath.Join(b.dir, "log"))
	if err != nil {
		return nil
	}
	defer f.Close()
	text, _ := io.ReadAll(io.NewSectionReader(f, offset, math.MaxInt64-offset))
	return text
}

// logSize returns how many bytes it has logged.
func (b *testbed) logSize() int64 {
	info, err := os.Stat(filepath.Join(b.dir, "log"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// stop ends the edge, and so its workers.
func (b *testbed) stop() {
	if b.caddy != nil && b.caddy.Process != nil {
		b.caddy.Process.Signal(syscall.SIGTERM)
		b.caddy.Wait()
	}
	b.caddy = nil
}

func (b *testbed) close() {
	b.stop()
	os.RemoveAll(b.dir)
}

// coordinate returns the place of a document's n-th scroll, from 1.
func coordinate(n int) string {
	return fmt.Sprintf("1.1.1/1.1.1/1.%d.%d", (n-1)/1000+1, (n-1)%1000+1)
}

// makeDocument makes a document of about n bytes in scrolls of scrollBytes, a
// thousand to a section.
func makeDocument(n int) []byte {
	var out bytes.Buffer
	text := bytes.Repeat([]byte("0123456789"), scrollBytes/10)
	for i := range n / scrollBytes {
		switch {
		case i == 0:
		case i%1000 == 0:
			out.WriteByte(0x18)
		default:
			out.WriteByte(0x17)
		}
		out.Write(text)
	}
	return out.Bytes()
}

func (b *testbed) edge(method, path, body string) target {
	head := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n", method, path, edgeAddress, key)
	if body != "" {
		head = fmt.Appendf(head, "Content-Length: %d\r\n", len(body))
	}
	return target{"tcp", edgeAddress, append(append(head, "\r\n"...), body...)}
}

// direct and proxied speak the worker's own contract, without a key.
func (b *testbed) direct(document, at string) target {
	return target{"unix", filepath.Join(b.dir, "run", tenant+".sock"), workerRequest("sq", document, at)}
}

func (b *testbed) proxied(document, at string) target {
	return target{"tcp", proxyAddress, workerRequest(proxyAddress, document, at)}
}

func workerRequest(host, document, at string) []byte {
	return fmt.Appendf(nil, "GET /select?p=%s&c=%s.%s HTTP/1.1\r\nHost: %s\r\n\r\n", document, tenant, at, host)
}

// updates are requests that overwrite scrolls all over a document.
func (b *testbed) updates(document string, size int) []target {
	body := strings.Repeat("y", textBytes)
	count := size / scrollBytes
	targets := make([]target, 0, 1000)
	for i := range 1000 {
		// A stride prime to every count spreads the writes over the document.
		at := coordinate(i*7919%count + 1)
		targets = append(targets, b.edge("POST", "/update?p="+document+"&c="+at, body))
	}
	return targets
}

// measure loads the targets and reads the edge's CPU time and allocations around
// it.
func (b *testbed) measure(targets []target, n int, each time.Duration) (result, error) {
	made, err := b.mallocs()
	if err != nil {
		return result{}, err
	}
	before, err := cpuTime(b.caddy.Process.Pid)
	if err != nil {
		return result{}, err
	}
	began := time.Now()
	count, err := load(targets, n, each)
	took := time.Since(began)
	if err != nil {
		return result{}, err
	}
	after, err := cpuTime(b.caddy.Process.Pid)
	if err != nil {
		return result{}, err
	}
	all, err := b.mallocs()
	if err != nil {
		return result{}, err
	}
	return result{
		perSecond: float64(count) / took.Seconds(),
		edgeCPU:   float64((after - before).Microseconds()) / float64(count),
		allocs:    float64(all-made) / float64(count),
	}, nil
}

// mallocs returns how many allocations the edge has made.
func (b *testbed) mallocs() (int, error) {
	text, err := b.debug("heap?debug=1")
	if err != nil {
		return 0, err
	}
	return numberAfter(text, "# Mallocs = ")
}

// debugger returns a client of Caddy's own admin endpoint.
func (b *testbed) debugger() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(b.dir, "admin"))
	}}}
}

// profile loads t over n connections while the edge profiles itself.
func (b *testbed) profile(t target, n int, file string) error {
	const seconds = 5
	admin := b.debugger()
	loaded := make(chan error, 1)
	go func() {
		_, err := load([]target{t}, n, (seconds+1)*time.Second)
		loaded <- err
	}()
	resp, err := admin.Get(fmt.Sprintf("http://edge/debug/pprof/profile?seconds=%d", seconds))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, resp.Body)
	return errors.Join(err, out.Close(), <-loaded)
}

// cpuTime returns the CPU time of a process, user and system, from /proc. Its
// unit is a hundredth of a second on every Linux that Go runs on.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is not as expected", pid)
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
