package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

// streamBuffer is how much of an answer of unknown length is gathered before it
// is sent, in bytes.
const streamBuffer = 32 << 10

const (
	typeText = "text/plain; charset=utf-8"
	typeJSON = "application/json"
)

// header starts an answer. A length below 0 is one not known yet.
func (w *answer) header(contentType string, length int64) {
	h := w.Header()
	h["Content-Type"] = []string{contentType}
	if length >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
}

// state says which change an answer shows: its sequence, and the checksum of the
// scroll, empty where there is none.
func (w *answer) state(seq uint64, checksum string) {
	h := w.Header()
	h["Sq-Seq"] = []string{strconv.FormatUint(seq, 10)}
	if checksum != "" {
		h["Etag"] = []string{`"` + checksum + `"`}
	}
}

// text answers with a text that is in memory.
func (w *answer) text(text []byte) error {
	w.header(typeText, int64(len(text)))
	_, err := w.Write(text)
	return err
}

func (w *answer) textf(format string, args ...any) error {
	return w.text(fmt.Appendf(nil, format, args...))
}

// json answers with a value that is in memory.
func (w *answer) json(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.header(typeJSON, int64(len(body)))
	_, err = w.Write(body)
	return err
}

// stream answers with what write writes, except to HEAD.
func (w *answer) stream(r *request, contentType string, write func(*bufio.Writer) error) error {
	w.header(contentType, -1)
	if r.Method == http.MethodHead {
		return nil
	}
	b := bufio.NewWriterSize(w, streamBuffer)
	if err := write(b); err != nil {
		return err
	}
	return b.Flush()
}

// view calls read with one moment of the request's document. It holds no lock
// of the engine meanwhile, so read may be as slow as the client.
func (h *handler) view(r *request, read func(*engine.View) error) error {
	v, err := h.Engine.View(r.document)
	if err != nil {
		return err
	}
	defer v.Close()
	return read(v)
}

func (h *handler) version(w *answer, r *request) error { return w.textf("%s", h.Version) }

func (h *handler) selectScroll(w *answer, r *request) error {
	return h.view(r, func(v *engine.View) error {
		scroll, checksum := v.Select(r.at), ""
		if len(scroll) > 0 {
			checksum = phext.Checksum(scroll)
		}
		w.state(v.Seq(), checksum)
		return w.text(scroll)
	})
}

func (h *handler) load(w *answer, r *request) error {
	if r.hasCoordinate {
		return h.selectScroll(w, r)
	}
	// A document that is not there reads as empty here as everywhere else.
	if err := h.Engine.Reload(r.Context(), r.document); err != nil && !errors.Is(err, engine.ErrNotFound) {
		return err
	}
	return w.textf("Loaded %s%s", r.document, wire.DocumentExt)
}

func (h *handler) toc(w *answer, r *request) error {
	return h.view(r, func(v *engine.View) error {
		return w.stream(r, typeText, func(b *bufio.Writer) error {
			var line []byte
			for at, scroll := range v.Scrolls() {
				line = at.Append(append(line[:0], "* "...))
				line = phext.AppendSummary(append(line, ": "...), scroll)
				if _, err := b.Write(append(line, '\n')); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (h *handler) get(w *answer, r *request) error {
	return h.view(r, func(v *engine.View) error { return w.document(r, v) })
}

func (h *handler) download(w *answer, r *request) error {
	return h.view(r, func(v *engine.View) error {
		if !v.Exists() {
			return engine.ErrNotFound
		}
		return w.document(r, v)
	})
}

// document answers with the whole text of a document.
func (w *answer) document(r *request, v *engine.View) error {
	w.header(typeText, v.Bytes())
	if r.Method == http.MethodHead {
		return nil
	}
	_, err := v.WriteTo(w)
	return err
}

func (h *handler) status(w *answer, r *request) error {
	return h.view(r, func(v *engine.View) error {
		return w.textf("Hosting: %s%s\nPhext Size: %d\nScrolls: %d", r.document, wire.DocumentExt, v.Bytes(), v.Count())
	})
}

func (h *handler) checksum(w *answer, r *request) error {
	return h.view(r, func(v *engine.View) error { return w.textf("%s", v.Checksum()) })
}

func (h *handler) where(w *answer, r *request) error {
	text, err := r.text(w, wire.MaxText)
	if err != nil {
		return err
	}
	at := phext.Coordinate{}
	if r.algo == algoChecksum {
		at = phext.WhereChecksum(text)
	} else if at, err = phext.WhereXOR(text, r.limit); err != nil {
		return wire.Errorf(http.StatusBadRequest, "the text holds %v", err)
	}
	return w.textf("Calculated coordinate %v for input (algo=%s, limit=%d).", at, r.algo, r.limit)
}

func (h *handler) jsonExport(w *answer, r *request) error {
	return h.view(r, func(v *engine.View) error {
		return w.stream(r, typeJSON, func(b *bufio.Writer) error {
			separator := byte('[')
			lines := json.NewEncoder(b)
			lines.SetEscapeHTML(false)
			for at, scroll := range v.Scrolls() {
				b.WriteByte(separator)
				separator = ','
				if err := lines.Encode(struct {
					Coord  string `json:"coord"`
					Scroll string `json:"scroll"`
				}{at.String(), string(scroll)}); err != nil {
					return err
				}
			}
			if separator == '[' {
				b.WriteByte('[')
			}
			_, err := io.WriteString(b, "]\n")
			return err
		})
	})
}

func (h *handler) documents(w *answer, r *request) error {
	list, err := h.Engine.List()
	if err != nil {
		return err
	}
	documents := make([]wire.Document, 0, len(list))
	for _, info := range list {
		d := wire.Document{Name: info.Name, Bytes: info.Bytes, Scrolls: info.Scrolls}
		if !info.Modified.IsZero() {
			d.Modified = info.Modified.UTC().Format(time.RFC3339)
		}
		if info.Err != nil {
			d.Error = reason(info.Err)
		}
		documents = append(documents, d)
	}
	if wire.PrefersJSON(r.Request) {
		return w.json(documents)
	}
	var lines []byte
	for _, d := range documents {
		lines = fmt.Appendf(lines, "%s\t%d\t%d\t%s", d.Name, d.Bytes, d.Scrolls, d.Modified)
		if d.Error != "" {
			lines = append(append(lines, '\t'), d.Error...)
		}
		lines = append(lines, '\n')
	}
	return w.text(lines)
}

func (h *handler) stats(w *answer, r *request) error {
	s, err := h.Engine.Stats()
	if err != nil {
		return err
	}
	return w.json(wire.Stats{
		Tenant: h.Tenant, StorageBytes: s.StorageBytes, Documents: s.Documents, Scrolls: s.Scrolls,
		Sequence: s.Seq, LogBytes: s.LogBytes,
		Misdirected: h.misdirected.Load(), Syncs: h.Syncs(), Checkpoints: h.Checkpoints(),
	})
}
