package main

import (
	"context"
	"errors"
	"fmt"
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

// serve runs a worker until it is told to end, and returns its exit status.
func serve(cfg config) int {
	logger := zap.New(zapcore.NewCore(
		zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(os.Stderr), zap.InfoLevel))
	unix.Umask(0o077)
	// The reader of stderr may be gone, and logging must not end the drain.
	signal.Ignore(syscall.SIGPIPE)
	runtime.GOMAXPROCS(min(runtime.NumCPU(), maxProcs))
	// The runtime would let garbage double the heap. Half as much again as the
	// documents may hold is left for it, or else the collector works harder. The
	// limit is soft, and mappings of large documents are not in it.
	memory := int64(cfg.memory) << 20
	debug.SetMemoryLimit(memory + memory/2 + restOfMemory)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)

	e, err := connect(cfg)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sq-worker serve: %v\n", err)
		return 1
	}
	// From here on nothing but the tenant's data and connections is in reach.
	if _, err := jail.Enter(cfg.sandbox, jail.Bounds{Dir: cfg.at, Memory: memory, Threads: cfg.threads}); err != nil {
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
	case <-stop:
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

// connect takes what the edge hands over, or makes it.
func connect(cfg config) (*edge, error) {
	if cfg.listen != "" {
		return byHand(cfg.listen)
	}
	return inherit()
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
