package api

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

const (
	testTenant  = "acme"
	testVersion = "sqedge test"
)

// worker is a tenant's engine behind a real unix socket.
type worker struct {
	dir    string
	engine *engine.Engine
	client *http.Client
	socket string
	logs   *observer.ObservedLogs
	stop   func()
}

// MustServe serves the data directory dir for a tenant until the test ends.
func MustServe(t *testing.T, dir, tenant string) *worker {
	t.Helper()
	return MustServeWith(t, dir, tenant, time.Minute)
}

// MustServeWith is MustServe with an AnswerTime.
func MustServeWith(t *testing.T, dir, tenant string, answerTime time.Duration) *worker {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	w := &worker{dir: dir, logs: logs}
	var err error
	w.engine, err = engine.Open(engine.Options{Dir: dir, Tenant: tenant, Logger: zap.New(core)})
	if err != nil {
		t.Fatalf("open engine: %v", err)
	}

	run, err := os.MkdirTemp("", "sq") // a test's own folder may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(run, "s")
	w.socket = socket
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: New(Config{
		Engine: w.engine, Tenant: tenant, Version: testVersion,
		Logger: zap.New(core), AnswerTime: answerTime,
		Syncs:       func() wire.Histogram { return wire.Histogram{Sum: 1} },
		Checkpoints: func() wire.Histogram { return wire.Histogram{Sum: 2} },
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(listener)
	}()
	transport := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	w.client = &http.Client{Transport: transport}
	w.stop = func() {
		transport.CloseIdleConnections()
		server.Close()
		<-served
		if err := w.engine.Close(); err != nil {
			t.Errorf("close engine: %v", err)
		}
		os.RemoveAll(run)
		w.stop = func() {}
	}
	t.Cleanup(func() { w.stop() })
	return w
}

// MustDo sends a request as the edge would: a write carries a quota, unless
// header says otherwise. It returns the answer with its whole body.
func (w *worker) MustDo(t *testing.T, method, target, body string, header ...string) (*http.Response, string) {
	t.Helper()
	resp, got, err := w.do(MustRequest(t, method, target, strings.NewReader(body), header...))
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return resp, got
}

// do is MustDo for goroutines that must not end the test.
func (w *worker) do(req *http.Request) (*http.Response, string, error) {
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}

// MustRequest makes a request; header holds names and values by turns.
func MustRequest(t *testing.T, method, target string, body io.Reader, header ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, "http://sq"+target, body)
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("SQ-Quota", "0")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Del(header[i])
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	return req
}

// MustAnswer fails unless the answer is 200 with exactly this body.
func (w *worker) MustAnswer(t *testing.T, method, target, body, want string) {
	t.Helper()
	resp, got := w.MustDo(t, method, target, body)
	if resp.StatusCode != http.StatusOK || got != want {
		t.Fatalf("%s %s: %d %s, want 200 %s", method, target, resp.StatusCode, clip(got), clip(want))
	}
}

// MustGet returns the body of a 200.
func (w *worker) MustGet(t *testing.T, target string) string {
	t.Helper()
	resp, got := w.MustDo(t, http.MethodGet, target, "")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %d %s, want 200", target, resp.StatusCode, clip(got))
	}
	return got
}

// clip quotes s for a test's output, and leaves most of it out where it is long.
func clip(s string) string {
	if len(s) > 300 {
		return strconv.Quote(s[:300]) + "…"
	}
	return strconv.Quote(s)
}

// MustMisdirected returns how many requests for another tenant the worker counted.
func (w *worker) MustMisdirected(t *testing.T) uint64 {
	t.Helper()
	var stats wire.Stats
	if err := json.Unmarshal([]byte(w.MustGet(t, wire.PathStats+"?c="+testTenant)), &stats); err != nil {
		t.Fatal(err)
	}
	return stats.Misdirected
}
