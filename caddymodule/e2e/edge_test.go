package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// adminKey and the tenants' keys are fixed, so that tests can search for them.
const adminKey = "pmb-admin-e2e0000000000000000000000000000"

// Tenant is an entry of an edge's tenants.json, and what the admin API answers
// when it adds one.
type Tenant struct {
	ID      string `json:"id"`
	Key     string `json:"api_key"`
	DataDir string `json:"data_dir"`
	QuotaMB int    `json:"quota_mb"`
	Enabled bool   `json:"enabled"`

	Limits map[string]int `json:"limits,omitempty"`
}

// Edge is a running edge with its own directories.
type Edge struct {
	t       *testing.T
	dir     string // holds everything below
	url     string // of the site
	env     []string
	files   []*os.File // inherited as descriptor 3 and on, as from systemd
	cmd     *exec.Cmd
	exited  chan struct{}
	waitErr error
	logFile string
	client  *http.Client
	self    string               // the test binary, where it is not to be run in place
	attr    *syscall.SysProcAttr // how to start the edge, unless nil
	onEnd   func()               // called once the edge has ended for good, unless nil
	orphans map[process]bool     // what edges had started that have ended
}

// Setup changes how [Start] sets an edge up.
type Setup struct {
	Plain   bool     // plain HTTP instead of TLS
	Tenants []Tenant // default: alpha and beta; an entry without a data directory is [Edge.Tenant]
	Env     []string // added to the edge's environment
	Config  string   // Caddyfile instead of the project's
}

// Start starts an edge and waits until it serves. It is stopped, and its log
// searched for crashes and races, when the test ends.
func Start(t *testing.T, setup Setup) *Edge {
	t.Helper()
	e := Prepare(t, setup)
	e.Boot()
	return e
}

// Prepare makes all that an edge needs and does not start it.
func Prepare(t *testing.T, setup Setup) *Edge {
	t.Helper()
	// Under /tmp, not t.TempDir: the path of a unix socket must be short.
	dir, err := os.MkdirTemp("/tmp", "sq")
	if err != nil {
		t.Fatal(err)
	}
	e := &Edge{t: t, dir: dir, logFile: filepath.Join(dir, "edge.log")}
	port := freePort(t)
	e.url = fmt.Sprintf("https://localhost:%d", port)
	if setup.Plain {
		e.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	}
	e.env = append([]string{
		roleCaddy + "=1",
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + dir,
		"XDG_DATA_HOME=" + filepath.Join(dir, "xdg"),
		"XDG_CONFIG_HOME=" + filepath.Join(dir, "xdg"),
		"SQ_SITE=" + e.url,
		"SQ_BIND=127.0.0.1",
		"SQ_CONFIG=" + e.ConfigPath(),
		"SQ_DATA_ROOT=" + e.DataRoot(),
		"SQ_RUN_DIR=" + e.RunDir(),
		"SQ_WORKER=" + workerBinary,
		"SQ_CADDY_ADMIN=unix/" + filepath.Join(dir, "admin"),
		"GORACE=atexit_sleep_ms=50", // else each process of a race build lingers for a second
	}, setup.Env...)
	if setup.Tenants == nil {
		setup.Tenants = []Tenant{{ID: "alpha"}, {ID: "beta"}}
	}
	setup.Tenants = slices.Clone(setup.Tenants)
	must(t, os.MkdirAll(e.DataRoot(), 0o700))
	for i, tenant := range setup.Tenants {
		if tenant.DataDir == "" {
			tenant = e.Tenant(tenant.ID)
			setup.Tenants[i] = tenant
		}
		must(t, os.MkdirAll(tenant.DataDir, 0o700))
	}
	e.WriteTenants(setup.Tenants...)
	caddyfile := setup.Config
	if caddyfile == "" {
		data, err := os.ReadFile("../../Caddyfile")
		must(t, err)
		caddyfile = string(data)
	}
	must(t, os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(caddyfile), 0o600))
	t.Cleanup(e.cleanup)
	return e
}

// Run runs a subtest on an edge that other subtests share, one after the other.
func (e *Edge) Run(name string, test func(*testing.T, *Edge)) {
	e.t.Run(name, func(t *testing.T) {
		outer := e.t
		defer func() { e.t = outer }()
		e.t = t
		test(t, e)
	})
}

// Tenant returns an entry for id whose key is tok-ID and whose data directory
// is in the data root.
func (e *Edge) Tenant(id string) Tenant {
	return Tenant{ID: id, Key: "tok-" + id, DataDir: filepath.Join(e.DataRoot(), id), QuotaMB: 100, Enabled: true}
}

func (e *Edge) ConfigPath() string { return filepath.Join(e.dir, "tenants.json") }
func (e *Edge) DataRoot() string   { return filepath.Join(e.dir, "data") }
func (e *Edge) RunDir() string     { return filepath.Join(e.dir, "run") }

// WriteTenants writes tenants.json in place, as a person with an editor might.
func (e *Edge) WriteTenants(tenants ...Tenant) {
	e.t.Helper()
	must(e.t, os.WriteFile(e.ConfigPath(), Encode(e.t, tenants...), 0o600))
}

// Boot starts the edge's process on what its directories hold.
func (e *Edge) Boot() {
	e.t.Helper()
	cmd := e.command(context.Background(), "run", "--config", filepath.Join(e.dir, "Caddyfile"))
	log, err := os.OpenFile(e.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(e.t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, e.files
	must(e.t, cmd.Start())
	exited := make(chan struct{})
	e.cmd, e.exited = cmd, exited
	go func() {
		e.waitErr = cmd.Wait()
		close(exited)
	}()
	e.client = nil
	Eventually(e.t, "the edge serves", func() error {
		select {
		case <-exited:
			e.t.Fatalf("the edge exited: %v\n%s", e.waitErr, e.Log())
		default:
		}
		client, err := e.newClient()
		if err != nil {
			return err
		}
		resp, err := client.Get(e.url + "/healthz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("healthz says %d", resp.StatusCode)
		}
		e.client = client
		return nil
	})
}

// command returns a caddy command with the edge's environment. It ends with the
// context, or with this process, however that ends.
func (e *Edge) command(ctx context.Context, args ...string) *exec.Cmd {
	self, err := os.Executable()
	must(e.t, err)
	cmd := exec.CommandContext(ctx, cmp.Or(e.self, self), args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = e.dir, e.env, e.attr
	_, err = cmd.StdinPipe() // its end is told to the command, see TestMain
	must(e.t, err)
	return cmd
}

// Caddy runs a caddy command, which must end, and returns what it printed.
func (e *Edge) Caddy(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := e.command(ctx, args...).CombinedOutput()
	return string(out), err
}

// StartFails starts the edge, which must fail, and returns what it said.
func (e *Edge) StartFails() string {
	e.t.Helper()
	out, err := e.Caddy("run", "--config", filepath.Join(e.dir, "Caddyfile"))
	if err == nil {
		e.t.Fatalf("the edge did not fail\n%s", out)
	}
	return out
}

// newClient returns a client that trusts the edge's own authority.
func (e *Edge) newClient() (*http.Client, error) {
	pool := x509.NewCertPool()
	if strings.HasPrefix(e.url, "https:") {
		pem, err := os.ReadFile(e.CAPath())
		if err != nil {
			return nil, err
		}
		pool.AppendCertsFromPEM(pem)
	}
	return &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: pool},
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 64,
			DisableCompression:  true,
		},
	}, nil
}

// CAPath is the certificate of Caddy's internal authority.
func (e *Edge) CAPath() string {
	return filepath.Join(e.dir, "xdg/caddy/pki/authorities/local/root.crt")
}

// Quit ends the edge as a service manager would and waits for it.
func (e *Edge) Quit() {
	e.t.Helper()
	if e.client != nil {
		e.client.CloseIdleConnections() // over HTTP/2 the edge would wait a second for each
	}
	e.signal(syscall.SIGTERM)
	if e.waitErr != nil {
		e.t.Errorf("the edge ended with: %v", e.waitErr)
	}
}

// Kill ends the edge with SIGKILL and waits for it.
func (e *Edge) Kill() {
	e.t.Helper()
	stop(e.t, e.cmd.Process.Pid) // so that it starts none that nobody knows of
	e.signal(syscall.SIGKILL)
}

func (e *Edge) signal(sig syscall.Signal) {
	e.t.Helper()
	if e.orphans == nil {
		e.orphans = make(map[process]bool)
	}
	for p := range e.processes() {
		e.orphans[p] = true
	}
	must(e.t, e.cmd.Process.Signal(sig))
	select {
	case <-e.exited:
	case <-time.After(time.Minute):
		e.cmd.Process.Kill()
		<-e.exited
		e.t.Fatalf("the edge did not end after %v\n%s", sig, e.Log())
	}
}

// Log is all that the edge and its workers wrote.
func (e *Edge) Log() string {
	data, err := os.ReadFile(e.logFile)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func (e *Edge) cleanup() {
	if e.onEnd != nil {
		defer e.onEnd()
	}
	if e.cmd == nil { // never started
		os.RemoveAll(e.dir)
		return
	}
	select {
	case <-e.exited:
	default:
		e.Quit()
	}
	log := e.Log()
	for _, fault := range []string{"DATA RACE", "panic:", "fatal error:", "SIGSEGV"} {
		if _, after, found := strings.Cut(log, fault); found {
			e.t.Errorf("the log holds %q:%s", fault, after[:min(len(after), 8000)])
		}
	}
	if e.t.Failed() {
		e.t.Logf("the end of the edge's log:\n%s", tail(log, 8000))
	}
	os.RemoveAll(e.dir)
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// Reply is an answer, read in full.
type Reply struct {
	Status int
	Header http.Header
	Body   string
	Proto  int // HTTP's major version
}

// Do sends a request with key as the bearer token, unless it is empty, and
// reads the answer. A header is given as "Name: value".
func (e *Edge) Do(key, method, path, body string, headers ...string) Reply {
	e.t.Helper()
	reply, err := e.Try(key, method, path, body, headers...)
	must(e.t, err)
	return reply
}

// Try is Do for requests that may fail. It may be called from any goroutine.
func (e *Edge) Try(key, method, path, body string, headers ...string) (Reply, error) {
	return e.TryWith(e.client, key, method, path, strings.NewReader(body), 0, headers...)
}

// TryWith is Try with another client and a body that is said to have length bytes,
// -1 for an unknown number, 0 for what the reader has if it tells.
func (e *Edge) TryWith(client *http.Client, key, method, path string, body io.Reader, length int64, headers ...string) (Reply, error) {
	r, err := http.NewRequest(method, e.url+path, body)
	if err != nil {
		return Reply{}, err
	}
	if length != 0 {
		r.ContentLength = length
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	resp, err := client.Do(r)
	if err != nil {
		return Reply{}, err
	}
	return readAll(resp)
}

// readAll reads an answer to its end.
func readAll(resp *http.Response) (Reply, error) {
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return Reply{resp.StatusCode, resp.Header, string(data), resp.ProtoMajor}, err
}

// Want sends a request and checks the answer's status and body.
func (e *Edge) Want(key, method, path, body string, status int, want string) {
	e.t.Helper()
	if got := e.Do(key, method, path, body); got.Status != status || got.Body != want {
		e.t.Fatalf("%s %s: %d %q, want %d %q", method, path, got.Status, clip(got.Body), status, clip(want))
	}
}

func clip(s string) string {
	if len(s) > 300 {
		return fmt.Sprintf("%s… (%d bytes)", s[:300], len(s))
	}
	return s
}

// Eventually calls check until it returns nil; it gives up after a minute.
func Eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting until %s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// processAlive reports whether a process exists and is no zombie.
func processAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z'
}

// lastPort is the one that freePort returned last.
var lastPort atomic.Int32

func init() { lastPort.Store(10000 + rand.Int32N(15000)) }

// freePort returns a port on which nobody listens, another one each time. It is
// below those that the kernel gives to connections, one of which could take it
// before the edge does, or while the edge restarts.
func freePort(t *testing.T) int {
	t.Helper()
	for range 5000 {
		port := lastPort.Add(1)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		tcp, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		defer tcp.Close()
		udp, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		defer udp.Close()
		return int(port)
	}
	t.Fatal("no port is free")
	return 0
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
