package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

// explain turns what an operation failed with into what its client is told.
// Only what is known to be fit for a client is repeated: other errors may hold
// paths.
func (h *handler) explain(r *request, err error) *wire.Error {
	var (
		known  *wire.Error
		quota  *engine.QuotaError
		broken *engine.DocumentError
		full   *engine.KeysFullError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &quota):
		return wire.Errorf(http.StatusInsufficientStorage,
			"quota exceeded: %d of %d bytes are used and this write needs %d more", quota.Used, quota.Quota, quota.Need)
	case errors.Is(err, engine.ErrKeyReused):
		return wire.Errorf(http.StatusUnprocessableEntity,
			"this %s was used for another request, and nothing was changed: a new request needs a new one", wire.HeaderClientKey)
	case errors.As(err, &full):
		after := int((full.RetryAfter + time.Second - 1) / time.Second)
		return &wire.Error{Status: http.StatusTooManyRequests, RetryAfter: after, Message: fmt.Sprintf(
			"%d writes with %s were made within a day, which is the most: try again in %d s, or without one", full.Kept, wire.HeaderClientKey, after)}
	case errors.Is(err, engine.ErrNotFound):
		return wire.Errorf(http.StatusNotFound, "no document %q", r.document)
	case errors.Is(err, engine.ErrChanged):
		return wire.Errorf(http.StatusConflict,
			"the file of document %q was changed by someone else: load the document, then repeat the request", r.document)
	case errors.Is(err, engine.ErrNotRegular) && errors.As(err, &broken):
		return &wire.Error{Status: http.StatusConflict, Err: err,
			Message: fmt.Sprintf("document %q is not a regular file in the data directory, and no link is followed", broken.Document)}
	case errors.Is(err, engine.ErrForeign):
		return &wire.Error{Status: http.StatusConflict, Err: err,
			Message: "nothing was done: the data directory holds a link, or another kind of file, where a folder or file of the worker's own must be"}
	case engine.IsFull(err):
		return &wire.Error{Status: http.StatusInsufficientStorage, Err: err,
			Message: "the server's disk is full; this is not the tenant's quota: reads go on, writes wait for the operator to make room"}
	case errors.As(err, &broken):
		return &wire.Error{Status: http.StatusServiceUnavailable, Err: err,
			Message: fmt.Sprintf("document %q cannot be served: %s", broken.Document, reason(err))}
	case errors.Is(err, engine.ErrFailed), errors.Is(err, engine.ErrClosed):
		return &wire.Error{Status: http.StatusServiceUnavailable, RetryAfter: 1, Err: err,
			Message: "the worker is restarting: try again"}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &wire.Error{Status: http.StatusServiceUnavailable, RetryAfter: 1, Err: err,
			Message: "the request was given up before it was done"}
	}
	return &wire.Error{Status: http.StatusServiceUnavailable, RetryAfter: 1, Err: err,
		Message: "the request failed inside the worker: its log says why"}
}

// reason says why a document cannot be served.
func reason(err error) string {
	var bad *phext.TextError
	if errors.As(err, &bad) {
		return bad.Error()
	}
	if errors.Is(err, engine.ErrNotRegular) {
		return engine.ErrNotRegular.Error()
	}
	return "its file cannot be read"
}

// refuse answers with e. A failed delta has an empty body, because a client
// merges any body into its user's file.
func (h *handler) refuse(w *answer, r *http.Request, e *wire.Error) {
	if e.Err != nil {
		h.Logger.Error("a request failed",
			zap.String("path", r.URL.Path), zap.Int("status", e.Status), zap.Error(e.Err))
	}
	if r.URL.Path == "/"+string(wire.Delta) {
		wire.WriteDeltaError(w, e)
		return
	}
	wire.WriteError(w, r, e)
}
