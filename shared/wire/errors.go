package wire

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// Error is an answer other than success, in words fit for a client: no path, no
// key, no other tenant's name.
type Error struct {
	Status     int
	Message    string // one line
	RetryAfter int    // seconds; 0 sends no Retry-After
	Allow      string // for 405
	Err        error  // the cause, for the log alone
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an [Error] without a cause.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// WriteError answers r with e: a line of plain text, or RFC 9457 problem+json
// where the client prefers JSON.
func WriteError(w http.ResponseWriter, r *http.Request, e *Error) {
	h := w.Header()
	e.setHeaders(h)
	var body []byte
	if PrefersJSON(r) {
		h.Set("Content-Type", "application/problem+json")
		body, _ = json.Marshal(struct {
			Type   string `json:"type"`
			Title  string `json:"title"`
			Status int    `json:"status"`
			Detail string `json:"detail"`
		}{"about:blank", http.StatusText(e.Status), e.Status, e.Message})
	} else {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		body = []byte(e.Message)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status)
	w.Write(body) // net/http drops it for HEAD
}

// WriteDeltaError answers a failed delta: an empty body, whatever the client
// accepts, and the message in [HeaderError], where it is kept to ASCII.
func WriteDeltaError(w http.ResponseWriter, e *Error) {
	h := w.Header()
	e.setHeaders(h)
	h.Set(HeaderError, strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, e.Message))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", "0")
	w.WriteHeader(e.Status)
}

func (e *Error) setHeaders(h http.Header) {
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	if e.Allow != "" {
		h.Set("Allow", e.Allow)
	}
}

// PrefersJSON reports whether r's Accept ranks a JSON type above plain text,
// which is the default and what */* asks for as well. A range with a malformed
// quality counts for nothing.
func PrefersJSON(r *http.Request) bool {
	var json, plain float64
	for _, line := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			kind, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			q := 1.0
			if s, ok := params["q"]; ok {
				if q, err = strconv.ParseFloat(s, 64); err != nil || !(q >= 0 && q <= 1) {
					continue
				}
			}
			switch kind {
			case "application/json", "application/problem+json":
				json = max(json, q)
			case "text/plain", "text/*", "*/*":
				plain = max(plain, q)
			}
		}
	}
	return json > plain
}
