// Package api is a worker's HTTP face: the operations of shared/wire, answered
// from one tenant's engine. It trusts nothing that the edge should have checked
// already: a request for another tenant, or one that names its target in a way
// the edge never would, is refused before it reaches data.
package api

import (
	"errors"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

// Config is what a worker's handler works with. Every field is required.
type Config struct {
	Engine      *engine.Engine
	Tenant      string                // id; a request for any other is answered 421
	Version     string                // what the version operation answers
	Logger      *zap.Logger           // never sees a text
	Syncs       func() wire.Histogram // for the stats, as Checkpoints
	Checkpoints func() wire.Histogram

	// AnswerTime is how long a client may take to read an answer, apart from a
	// second for each 256 KiB of it. One that is slower is cut off: while it
	// reads, the version of the document that it was given stays open, with the
	// disk space of its file.
	AnswerTime time.Duration
}

type handler struct {
	Config
	misdirected atomic.Uint64
}

// New returns the handler that answers for one tenant.
func New(c Config) http.Handler {
	return &handler{Config: c}
}

// operations has a function for every operation of [wire.Rules].
var operations = map[wire.Op]func(*handler, *answer, *request) error{
	wire.Version:    (*handler).version,
	wire.Select:     (*handler).selectScroll,
	wire.Load:       (*handler).load,
	wire.Insert:     (*handler).insert,
	wire.Update:     (*handler).update,
	wire.Delete:     (*handler).delete,
	wire.TOC:        (*handler).toc,
	wire.Get:        (*handler).get,
	wire.Status:     (*handler).status,
	wire.Checksum:   (*handler).checksum,
	wire.Delta:      (*handler).delta,
	wire.Where:      (*handler).where,
	wire.JSONExport: (*handler).jsonExport,
	wire.Documents:  (*handler).documents,
	wire.Download:   (*handler).download,
	wire.Replace:    (*handler).replace,
	wire.Remove:     (*handler).remove,
	opStats:         (*handler).stats,
}

// ServeHTTP answers one request. Documents are read through memory mappings, so
// a file that somebody cuts short in place makes a read of it fault. That ends
// this one answer, not the worker.
func (h *handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	w := &answer{ResponseWriter: rw, time: h.AnswerTime}
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if cause != http.ErrAbortHandler {
			h.Logger.Error("answering a request panicked",
				zap.String("path", r.URL.Path), zap.Any("cause", cause), zap.ByteString("stack", debug.Stack()))
		}
		if cause == http.ErrAbortHandler || w.started {
			panic(http.ErrAbortHandler) // cuts the connection: a short answer must not look whole
		}
		h.refuse(w, r, wire.Errorf(http.StatusServiceUnavailable, "the worker failed while it answered: its log says why"))
	}()

	req, err := h.parse(r)
	if err == nil {
		err = operations[req.op](h, w, req)
	}
	if err == nil {
		return
	}
	if w.started {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			h.Logger.Warn("a client read its answer too slowly and was cut off, so that the version of the document it was reading can go",
				zap.String("path", r.URL.Path), zap.String("document", req.document), zap.Int64("bytes_sent", w.sent), zap.Duration("took", time.Since(w.began)))
		} else if r.Context().Err() == nil { // else the client went away, as clients do
			h.Logger.Warn("an answer was cut short", zap.String("path", r.URL.Path), zap.Error(err))
		}
		panic(http.ErrAbortHandler)
	}
	h.refuse(w, r, h.explain(req, err))
}

// piece is how much of an answer is written at a time, and how much of it a
// client must read each second once its AnswerTime is used up, in bytes.
const piece = 256 << 10

// heldBack is how much of an answer net/http keeps until its handler is done, in
// bytes: what is no longer waits for no client, with a version of a document open.
const heldBack = 2048

// answer remembers whether any of the answer has been sent, after which nothing
// but cutting the connection can tell the client of a fault. It gives the client
// a deadline that moves on with what it reads.
type answer struct {
	http.ResponseWriter
	time    time.Duration // see Config.AnswerTime
	started bool
	began   time.Time // of the first piece
	sent    int64     // bytes
}

func (w *answer) WriteHeader(status int) {
	w.started = true
	w.ResponseWriter.WriteHeader(status)
}

// Write fails with [os.ErrDeadlineExceeded] where the client reads too slowly.
// net/http takes the deadline off the connection once the request is done.
func (w *answer) Write(p []byte) (written int, err error) {
	w.started = true
	if w.sent+int64(len(p)) <= heldBack {
		written, err = w.ResponseWriter.Write(p)
		w.sent += int64(written)
		return written, err
	}
	if w.began.IsZero() {
		w.began = time.Now()
	}
	for first := true; first || len(p) > 0; first = false {
		n := min(len(p), piece)
		deadline := w.began.Add(w.time + time.Duration(w.sent+int64(n))*time.Second/piece)
		if err := http.NewResponseController(w.ResponseWriter).SetWriteDeadline(deadline); err != nil {
			return written, err
		}
		n, err = w.ResponseWriter.Write(p[:n])
		written, w.sent, p = written+n, w.sent+int64(n), p[n:]
		if err != nil {
			break
		}
	}
	return written, err
}

// Unwrap is for [http.ResponseController].
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
