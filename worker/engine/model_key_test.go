package engine_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// sent is a write with a key that was made, and what it was answered.
type sent struct {
	key, op, name, body string
	at                  *phext.Coordinate
	answer              answered
}

// answered is an answer as far as a repetition gives the same.
type answered struct {
	status          int
	body, seq, etag string
}

func answerOf(code int, body string, h http.Header) answered {
	return answered{code, body, h.Get("SQ-Seq"), h.Get("ETag")}
}

// keyHeader gives some of the writes a key of their own; see keep.
func (m *model) keyHeader(r *http.Request) {
	m.key = ""
	if rule := wire.Rules[wire.Op(strings.TrimPrefix(r.URL.Path, "/"))]; rule.Write && m.r.IntN(4) == 0 {
		m.keys++
		m.key = fmt.Sprint("key ", m.keys)
		r.Header.Set(wire.HeaderKey, wire.QuoteKey(m.key))
	}
}

// keep remembers a write with a key if it was made.
func (m *model) keep(op, name string, at *phext.Coordinate, body string, w *httptest.ResponseRecorder) {
	if w.Header().Get(wire.HeaderReplayed) != "" {
		m.fatalf("%s of %q at %v is said to be a repetition", op, name, at)
	}
	if m.key != "" && w.Code == http.StatusOK {
		if at != nil {
			place := *at
			at = &place
		}
		m.sent = append(m.sent, sent{m.key, op, name, body, at, answerOf(w.Code, w.Body.String(), w.Header())})
	}
}

// again repeats a write with its key, or sends another one with it. Neither changes
// anything, whatever has become of the document since, so the model knows nothing
// of it.
func (m *model) again() {
	if len(m.sent) == 0 {
		return
	}
	s := m.sent[m.r.IntN(len(m.sent))]
	want, op, body := s.answer, s.op, s.body
	other := m.r.IntN(4) == 0
	if other {
		switch {
		case wire.Rules[wire.Op(op)].Text && m.r.IntN(2) == 0:
			body += "x"
		case s.at == nil:
			op = map[string]string{"replace": "remove", "remove": "replace"}[op]
		default:
			at := *s.at
			at[m.r.IntN(phext.Dimensions)]++
			s.at = &at
		}
	}
	m.note("again, another request: %t: %s of %q at %v: %q", other, op, s.name, s.at, body)
	r := m.request(op, s.name, s.at, body)
	r.Header.Set(wire.HeaderKey, wire.QuoteKey(s.key))
	w := recorder{httptest.NewRecorder()}
	m.handler.ServeHTTP(w, r)
	got, replayed := answerOf(w.Code, w.Body.String(), w.Header()), w.Header().Get(wire.HeaderReplayed)
	if other && (got.status != http.StatusUnprocessableEntity || replayed != "") {
		m.fatalf("another request with the key: %+v, replayed %q", got, replayed)
	}
	if !other && (got != want || replayed != "true") {
		m.fatalf("sent again: %+v, replayed %q; want %+v", got, replayed, want)
	}
}
