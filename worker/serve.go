package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/api"
	"github.com/sqedge/sqedge/worker/engine"
	"github.com/sqedge/sqedge/worker/jail"
)

const (
	// readHeaderTimeout must stay above the time for which the edge keeps an
	// idle connection: a connection made and not used yet counts as one whose
	// header is late, and must not be closed while the edge sends on it.
	readHeaderTimeout = 60 * time.Second

	maxHeader = 64 << 10 // bytes; the edge's request line is far below

	// drainTimeout is how long requests in flight may go on once the worker is
	// to end, and failTimeout how long once its log has failed.
	drainTimeout = 10 * time.Second
	failTimeout  = time.Second

	// restOfMemory is what a worker needs beside its documents, in bytes: the
	// runtime's own, stacks, and requests under way. A process of at most half
	// as much again as its documents may hold and 32 MiB is what we promise.
	restOfMemory = 24 << 20

	// maxProcs bounds the threads and the memory per CPU of a worker, of which
	// a machine runs hundreds.
	maxProcs = 4
)

// worker is what a process is before it knows its tenant.
type worker struct {
	logger *zap.Logger
	cell   *jail.Cell
	stop   chan os.Signal
}

// standby waits until the edge says whose worker this is, and serves. What does not
// depend on that is done before, since nobody waits for it yet.
func standby(args []string, stderr io.Writer) int {
	c := newInvocation(wire.CommandStandby, stderr)
	c.flags.Func("sandbox", "the jail: `mode` strict, default or off", func(s string) (err error) {
		c.sandbox, err = wire.ParseSandbox(s)
		return err
	})
	if err := c.flags.Parse(args); err != nil {
		return 2
	}
	mode := c.sandbox
	w, err := prepare(mode)
	var e *edge
	if err == nil {
		e, err = inherit()
	}
	if err != nil {
		fmt.Fprintf(stderr, "sq-worker standby: %v\n", err)
		return 1
	}
	type assignment struct {
		flags []string
		err   error
	}
	assigned := make(chan assignment, 1)
	go func() {
		flags, err := e.assigned()
		assigned <- assignment{flags, err}
	}()
	var a assignment
	select {
	case a = <-assigned:
	case <-w.stop:
		return 0
	}
	if a.err == io.EOF {
		return 0 // it never had a tenant
	}
	if a.err != nil {
		fmt.Fprintf(stderr, "sq-worker standby: %v\n", a.err)
		return 1
	}
	if c.flags.Parse(a.flags) != nil || c.check() != nil {
		return 2
	}
	if c.sandbox != mode {
		c.wrong("-sandbox comes too late")
		return 2
	}
	// For whoever looks at the machine's processes. It is cut to 15 bytes, and not
	// there on all systems.
	os.WriteFile("/proc/self/comm", []byte("sq:"+c.tenant), 0)
	return w.serve(c.config, e)
}

// byHand serves on a socket of its own, without an edge and without a jail, in which
// it could not remove its socket, nor be debugged.
func byHand(args []string, stderr io.Writer) int {
	c := newInvocation("serve", stderr)
	listen := c.flags.String("listen", "", "make this unix `socket` and serve until SIGTERM")
	if c.flags.Parse(args) != nil || c.check() != nil {
		return 2
	}
	if *listen == "" {
		c.wrong("-listen is missing: the edge starts workers by %s", wire.CommandStandby)
		return 2
	}
	w, err := prepare(wire.SandboxOff)
	var listener net.Listener
	if err == nil {
		listener, err = net.Listen("unix", *listen)
	}
	if err != nil {
		fmt.Fprintf(stderr, "sq-worker serve: %v (remove the socket if it is left from before)\n", err)
		return 1
	}
	return w.serve(c.config, &edge{listener: listener})
}

// prepare does what does not depend on the tenant. The jail comes first: each thread
// that there is makes it take longer.
func prepare(mode wire.Sandbox) (*worker, error) {
	cell, err := jail.Begin(mode)
	if err != nil {
		return nil, err
	}
	unix.Umask(0o077)
	// The reader of stderr may be gone, and logging must not end the drain.
	signal.Ignore(syscall.SIGPIPE)
	runtime.GOMAXPROCS(min(runtime.NumCPU(), maxProcs))
	w := &worker{
		logger: zap.New(zapcore.NewCore(
			zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(os.Stderr), zap.InfoLevel)),
		cell: cell,
		stop: make(chan os.Signal, 1),
	}
	signal.Notify(w.stop, syscall.SIGTERM, syscall.SIGINT)
	return w, nil
}

// serve runs a worker until it is told to end, and returns its exit status.
func (w *worker) serve(cfg config, e *edge) int {
	logger := w.logger
	// The runtime would let garbage double the heap. Half as much again as the
	// documents may hold is left for it, or else the collector works harder. The
	// limit is soft, and mappings of large documents are not in it.
	memory := int64(cfg.memory) << 20
	debug.SetMemoryLimit(memory + memory/2 + restOfMemory)

	// From here on nothing but the tenant's data and connections is in reach.
	if _, err := w.cell.Enter(jail.Bounds{Dir: cfg.at, Memory: memory, Threads: cfg.threads}); err != nil {
		logger.Error("worker cannot lock itself in with the tenant's data", zap.Error(err))
		e.tell(err.Error())
		return 1
	}
	var syncs, checkpoints histogram
	eng, err := engine.Open(engine.Options{
		Dir:               cfg.at,
		Tenant:            cfg.tenant,
		Owner:             cfg.owner,
		Logger:            logger,
		Memory:            memory,
		ObserveSync:       syncs.observe,
		ObserveCheckpoint: checkpoints.observe,
	})
	if err != nil {
		logger.Error("worker cannot open the tenant's data", zap.Error(err))
		reason := err.Error()
		switch {
		case errors.Is(err, engine.ErrForeign):
			reason = wire.Refused + reason
		case errors.Is(err, engine.ErrAbsent):
			reason = wire.Absent + reason
		}
		e.tell(reason)
		return 1
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true) // without HTTP/2, which is set up otherwise and never spoken
	server := &http.Server{
		Protocols: &protocols,
		Handler: api.New(api.Config{
			Engine:      eng,
			Tenant:      cfg.tenant,
			Version:     wire.ProductVersion,
			Logger:      logger,
			Syncs:       syncs.read,
			Checkpoints: checkpoints.read,
			AnswerTime:  cfg.answerTime,
		}),
		ReadHeaderTimeout: readHeaderTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          zap.NewStdLog(logger),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(e.listener) }()
	e.tell(wire.Ready + " " + eng.Owner())

	status, timeout := 0, drainTimeout
	select {
	case <-e.gone():
	case <-w.stop:
	case <-eng.Failed():
		logger.Error("the log failed; the worker ends, so that the next one finds what is on disk", zap.Error(eng.Err()))
		status, timeout = 1, failTimeout
	case err := <-served:
		logger.Error("worker cannot accept connections", zap.Error(err))
		status = 1
	}
	if !drain(server, eng, timeout, logger) {
		status = 1
	}
	return status
}

// drain lets the requests in flight end within timeout, cuts off those that do
// not, and checkpoints. It reports whether everything acknowledged is on disk
// as checkpoints; whatever it reports, it is in the log.
func drain(server *http.Server, eng *engine.Engine, timeout time.Duration, logger *zap.Logger) bool {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		logger.Warn("requests were cut off, since they did not end in time", zap.Duration("timeout", timeout), zap.Error(err))
		server.Close()
	}
	if err := eng.Close(); err != nil {
		logger.Error("closing the tenant's data", zap.Error(err))
		return false
	}
	return true
}
