package api

import (
	"errors"
	"io"
	"net/http"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

func (h *handler) insert(w *answer, r *request) error {
	text, err := r.scrollText(w)
	if err != nil {
		return err
	}
	result, err := h.Engine.Once(r.key).Append(r.Context(), r.document, r.at, text, r.quota)
	if err != nil {
		return err
	}
	w.state(result.Seq, result.Checksum)
	w.replayed(result)
	return w.textf("Inserted %d bytes", result.Bytes)
}

func (h *handler) update(w *answer, r *request) error {
	text, err := r.scrollText(w)
	if err != nil {
		return err
	}
	result, err := h.Engine.Once(r.key).Put(r.Context(), r.document, r.at, text, r.quota)
	if err != nil {
		return err
	}
	w.state(result.Seq, result.Checksum)
	w.replayed(result)
	return w.textf("Updated %d bytes", result.Bytes)
}

func (h *handler) delete(w *answer, r *request) error {
	result, err := h.Engine.Once(r.key).Delete(r.Context(), r.document, r.at)
	if err != nil {
		return err
	}
	w.state(result.Seq, result.Checksum)
	w.replayed(result)
	return w.textf("Removed %d bytes", result.Bytes)
}

func (h *handler) replace(w *answer, r *request) error {
	body, err := r.body(w, wire.MaxDocument)
	if err != nil {
		return err
	}
	text := &replacement{body: body}
	result, err := h.Engine.Once(r.key).Replace(r.Context(), r.document, text, r.quota)
	if text.err != nil {
		return bodyError(text.err)
	}
	var bad *phext.TextError
	if errors.As(err, &bad) {
		return wire.Errorf(http.StatusBadRequest, "the text is no phext: %v", bad)
	}
	if err != nil {
		return err
	}
	w.replayed(result)
	return w.textf("Replaced %s%s: %d bytes", r.document, wire.DocumentExt, result.Bytes)
}

func (h *handler) remove(w *answer, r *request) error {
	result, err := h.Engine.Once(r.key).Remove(r.Context(), r.document)
	if err != nil {
		return err
	}
	w.replayed(result)
	return w.textf("Removed %s%s: %d bytes", r.document, wire.DocumentExt, result.Bytes)
}

// replayed says that the write was made before, where it was.
func (w *answer) replayed(result engine.Result) {
	if result.Replayed {
		w.Header().Set(wire.HeaderReplayed, "true")
	}
}

// replacement remembers a fault of the client's, to tell it from the engine's.
type replacement struct {
	body io.Reader
	err  error
}

func (b *replacement) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}
