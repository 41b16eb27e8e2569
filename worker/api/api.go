// Package api is a worker's HTTP face: the operations of shared/wire, answered
// from one tenant's engine. It trusts nothing that the edge should have checked
// already: a request for another tenant, or one that names its target in a way
// the edge never would, is refused before it reaches data.
package api

import (
	"net/http"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

// Config is what a worker's handler works with. Every field is required.
type Config struct {
	Engine      *engine.Engine
	Tenant      string               // id; a request for any other is answered 421
	Version     string               // what the version operation answers
	Logger      *zap.Logger          // never sees a text
	Registry    *prometheus.Registry // served at /metrics
	Misdirected prometheus.Counter   // counts requests for another tenant: 0 for ever, or the edge is wrong
}

type handler struct {
	Config
	metrics http.Handler
}

// New returns the handler that answers for one tenant.
func New(c Config) http.Handler {
	return &handler{Config: c, metrics: promhttp.HandlerFor(c.Registry, promhttp.HandlerOpts{})}
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
	opMetrics:       (*handler).scrape,
}

// ServeHTTP answers one request. Documents are read through memory mappings, so
// a file that somebody cuts short in place makes a read of it fault. That ends
// this one answer, not the worker.
func (h *handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	w := &answer{ResponseWriter: rw}
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
		if r.Context().Err() == nil { // else the client went away, as clients do
			h.Logger.Warn("an answer was cut short", zap.String("path", r.URL.Path), zap.Error(err))
		}
		panic(http.ErrAbortHandler)
	}
	h.refuse(w, r, h.explain(req, err))
}

// answer remembers whether any of the answer has been sent, after which nothing
// but cutting the connection can tell the client of a fault.
type answer struct {
	http.ResponseWriter
	started bool
}

func (w *answer) WriteHeader(status int) {
	w.started = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *answer) Write(p []byte) (int, error) {
	w.started = true
	return w.ResponseWriter.Write(p)
}

// Unwrap is for [http.ResponseController].
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
