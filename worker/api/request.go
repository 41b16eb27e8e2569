package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

// Defaults of the where operation.
const (
	algoXOR      = "xor"
	algoChecksum = "checksum"

	defaultLimit = 100
)

// opStats is no operation of the public API, by the same machinery.
var opStats = wire.Op(strings.TrimPrefix(wire.PathStats, "/"))

// request is a request in full, checked. Nothing is read from the *http.Request
// after it but the body, the Accept header and the context.
type request struct {
	*http.Request
	op            wire.Op
	document      string // where the operation's rule has one
	at            phext.Coordinate
	hasCoordinate bool
	quota         int64 // bytes, 0 for none; of writes
	key           engine.Key

	algo  string // of where: algoXOR or algoChecksum
	limit int    // of where, bytes
}

// rule returns what is known of the operation a path names.
func rule(op wire.Op) (wire.Rule, bool) {
	if op == opStats {
		return wire.Rule{Methods: []string{http.MethodGet}}, true
	}
	r, ok := wire.Rules[op]
	return r, ok
}

// parse checks a request strictly: what the edge never sends is an error, even
// where a meaning could be guessed. The request it returns beside an error has
// as much filled in as was known by then.
func (h *handler) parse(r *http.Request) (*request, error) {
	req := &request{Request: r, op: wire.Op(strings.TrimPrefix(r.URL.Path, "/"))}
	rule, ok := rule(req.op)
	if !ok {
		return req, wire.Errorf(http.StatusNotFound, "no such operation")
	}
	allowed := []string{rule.Method()}
	if slices.Contains(rule.Methods, http.MethodGet) && !rule.Write {
		allowed = append(allowed, http.MethodHead) // wherever GET reads in public, which a delta does too
	}
	if !slices.Contains(allowed, r.Method) {
		list := strings.Join(allowed, ", ")
		return req, &wire.Error{Status: http.StatusMethodNotAllowed, Message: "method not allowed: use " + list, Allow: list}
	}

	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return req, wire.Errorf(http.StatusBadRequest, "the query is malformed")
	}
	for name, values := range query {
		known := name == wire.ParamAddress ||
			name == wire.ParamDocument && rule.Document ||
			req.op == wire.Where && (name == wire.ParamAlgo || name == wire.ParamLimit)
		switch {
		case !known:
			return req, wire.Errorf(http.StatusBadRequest, "unknown query parameter %q", name)
		case len(values) > 1:
			return req, wire.Errorf(http.StatusBadRequest, "query parameter %q is given %d times", name, len(values))
		}
	}

	address, err := wire.ParseAddress(query.Get(wire.ParamAddress))
	if err != nil {
		return req, wire.Errorf(http.StatusBadRequest, "bad address: %v", err)
	}
	if address.Tenant != h.Tenant {
		h.misdirected.Add(1)
		h.Logger.Error("refused a request for another tenant: the edge routed it wrongly",
			zap.String("meant_for", address.Tenant), zap.String("operation", string(req.op)))
		return req, wire.Errorf(http.StatusMisdirectedRequest, "this worker serves another tenant")
	}
	req.at, req.hasCoordinate = address.Coordinate, address.HasCoordinate
	switch {
	case rule.Coordinate == wire.Required && !req.hasCoordinate:
		return req, wire.Errorf(http.StatusBadRequest, "%s needs a coordinate", req.op)
	case rule.Coordinate == wire.Never && req.hasCoordinate:
		return req, wire.Errorf(http.StatusBadRequest, "%s takes no coordinate", req.op)
	}

	if rule.Document {
		req.document = query.Get(wire.ParamDocument)
		if err := wire.CheckDocument(req.document); err != nil {
			return req, wire.Errorf(http.StatusBadRequest, "%v", err)
		}
	}
	if rule.Write {
		if req.quota, err = parseQuota(r.Header[http.CanonicalHeaderKey(wire.HeaderQuota)]); err != nil {
			return req, wire.Errorf(http.StatusBadRequest, "%v", err)
		}
		key, err := wire.ParseKey(r.Header[http.CanonicalHeaderKey(wire.HeaderKey)])
		if err != nil {
			return req, wire.Errorf(http.StatusBadRequest, "the %s header: %v", wire.HeaderKey, err)
		}
		if key != "" {
			req.key = engine.KeyOf(key)
		}
	}
	if req.op == wire.Where {
		return req, req.parseWhere(query)
	}
	return req, nil
}

func parseQuota(values []string) (int64, error) {
	if len(values) != 1 {
		return 0, fmt.Errorf("a write needs one %s header, not %d", wire.HeaderQuota, len(values))
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("the %s header is not a number of bytes", wire.HeaderQuota)
	}
	return int64(n), nil
}

func (r *request) parseWhere(query url.Values) error {
	r.algo, r.limit = algoXOR, defaultLimit
	if query.Has(wire.ParamAlgo) {
		r.algo = query.Get(wire.ParamAlgo)
		if !slices.Contains([]string{algoXOR, algoChecksum}, r.algo) {
			return wire.Errorf(http.StatusBadRequest, "unknown algo: use %s or %s", algoXOR, algoChecksum)
		}
	}
	if query.Has(wire.ParamLimit) {
		n, err := strconv.ParseUint(query.Get(wire.ParamLimit), 10, 31)
		if err != nil {
			return wire.Errorf(http.StatusBadRequest, "limit must be a number of bytes, 0 to %d", 1<<31-1)
		}
		r.limit = int(n)
	}
	return nil
}

// body returns the request's body, which fails beyond limit bytes: at once
// where it announces more, else when it gets there.
func (r *request) body(w *answer, limit int64) (io.Reader, error) {
	if r.ContentLength > limit {
		return nil, bodyError(&http.MaxBytesError{Limit: limit})
	}
	return http.MaxBytesReader(w.ResponseWriter, r.Body, limit), nil
}

// text reads a body of at most limit bytes whole. It must be UTF-8.
func (r *request) text(w *answer, limit int64) ([]byte, error) {
	body, err := r.body(w, limit)
	if err != nil {
		return nil, err
	}
	// A length that is only announced does not make the worker allocate it.
	size := min(r.ContentLength, 1<<20)
	if size < 0 {
		size = 511
	}
	text := make([]byte, 0, size+1)
	for {
		if len(text) == cap(text) {
			text = slices.Grow(text, len(text))
		}
		n, err := body.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, bodyError(err)
		}
	}
	var bad *phext.TextError
	if errors.As(phext.Validate(text), &bad) {
		return nil, wire.Errorf(http.StatusBadRequest, "the text is not valid UTF-8: %v", bad)
	}
	return text, nil
}

// scrollText reads the text of one scroll. A break in it would move every
// scroll behind it, and is refused.
func (r *request) scrollText(w *answer) ([]byte, error) {
	text, err := r.text(w, wire.MaxText)
	if err != nil {
		return nil, err
	}
	if i := phext.IndexBreak(text); i >= 0 {
		return nil, wire.Errorf(http.StatusBadRequest,
			"the text holds the break byte 0x%02X at byte %d, which would move the scrolls behind it", text[i], i)
	}
	return text, nil
}

// bodyError says why a body could not be read.
func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return wire.Errorf(http.StatusRequestEntityTooLarge, "the text is larger than %d bytes", tooLarge.Limit)
	}
	return &wire.Error{Status: http.StatusBadRequest, Message: "the text ended before all of it was there", Err: err}
}
