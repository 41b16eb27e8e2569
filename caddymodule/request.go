package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

// apiPrefix begins every public path; each operation also answers at /OP.
const apiPrefix = "/api/v2/"

// parameters are what a query or a form may name. Any other name is ignored,
// as the reference server does, so that a client can add its own.
type parameters struct {
	document, coordinate, text, algo, limit string
	hasDocument, hasCoordinate, hasText     bool
	seen                                    []string // names, to find one given twice
}

// request is a client's request, parsed once: everything behind the parser works
// on this value and never on the client's bytes.
type request struct {
	op       wire.Op
	rule     wire.Rule
	document string
	address  wire.Address // without the tenant until it is known
	algo     string
	limit    string
	key      string      // idempotency key of a write; empty for none
	body     io.Reader   // the text; nil for none
	length   int64       // of body in bytes, -1 where unknown
	text     *clientText // body, where it is the client's own
}

// cost is what the request costs the box, for the shedder.
func (req *request) cost() int64 {
	if req.rule.Write {
		return writeCost
	}
	return readCost
}

// maxText returns how many bytes of text a request for op may bring.
func maxText(op wire.Op, limits *tenants.Limits) int64 {
	if op == wire.Replace {
		return limits.MaxDocument
	}
	return limits.MaxScroll
}

// brokenBody says why a body could not be read whole.
func brokenBody(what string, err error) *wire.Error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return wire.Errorf(http.StatusRequestTimeout, "reading the %s: it came too slowly", what)
	}
	return wire.Errorf(http.StatusBadRequest, "reading the %s: it ended early or is malformed", what)
}

// parseRequest reads a client's request. Its errors are answers.
func parseRequest(r *http.Request, limit func(wire.Op) int64) (*request, *wire.Error) {
	req, op, werr := parsePath(r)
	if werr != nil {
		return nil, werr
	}
	if req.op, werr = resolveMethod(op, r.Method); werr != nil {
		return nil, werr
	}
	req.rule = wire.Rules[req.op]
	if req.rule.Write {
		var err error
		if req.key, err = wire.ParseKey(r.Header[wire.HeaderClientKey]); err != nil {
			return nil, wire.Errorf(http.StatusBadRequest, "header %s: %v", wire.HeaderClientKey, err)
		}
	}

	var params parameters
	if werr := params.parse(r.URL.RawQuery, "query"); werr != nil {
		return nil, werr
	}
	if werr := req.parseBody(r, &params, limit(req.op)); werr != nil {
		return nil, werr
	}
	if werr := req.apply(&params); werr != nil {
		return nil, werr
	}
	return req, nil
}

// parsePath finds the operation and, for documents/{p}, the document. It works
// on the path as it was sent, so that an encoded slash stays inside its segment.
func parsePath(r *http.Request) (*request, wire.Op, *wire.Error) {
	path := r.URL.EscapedPath()
	rest, ok := strings.CutPrefix(path, apiPrefix)
	if !ok {
		rest, ok = strings.CutPrefix(path, "/")
	}
	name, segment, hasSegment := strings.Cut(rest, "/")
	op := wire.Op(name)
	if _, known := wire.Rules[op]; !ok || !known || slices.Contains(documentOps, op) {
		return nil, "", wire.Errorf(http.StatusNotFound, "Not Found")
	}
	req := new(request)
	if !hasSegment {
		return req, op, nil
	}
	if op != wire.Documents {
		return nil, "", wire.Errorf(http.StatusNotFound, "Not Found")
	}
	document, err := url.PathUnescape(segment)
	if err != nil {
		return nil, "", wire.Errorf(http.StatusBadRequest, "path: bad percent-escape")
	}
	if strings.Contains(segment, "/") {
		return nil, "", wire.Errorf(http.StatusNotFound, "Not Found")
	}
	if err := wire.CheckDocument(document); err != nil {
		return nil, "", wire.Errorf(http.StatusBadRequest, "path: %v", err)
	}
	req.document = document
	return req, wire.Download, nil
}

// documentOps are the operations on the path documents/{p}, told apart by
// method. They have no path of their own.
var documentOps = []wire.Op{wire.Download, wire.Replace, wire.Remove}

// resolveMethod checks the method, and picks the operation where the method
// does.
func resolveMethod(op wire.Op, method string) (wire.Op, *wire.Error) {
	candidates := []wire.Op{op}
	if op == wire.Download {
		candidates = documentOps
	}
	var allow []string
	for _, candidate := range candidates {
		rule := wire.Rules[candidate]
		for _, m := range rule.Methods {
			// HEAD goes wherever GET reads, not where GET writes.
			head := m == http.MethodGet && !rule.Write
			if m == method || head && method == http.MethodHead {
				return candidate, nil
			}
			allow = append(allow, m)
			if head {
				allow = append(allow, http.MethodHead)
			}
		}
	}
	werr := wire.Errorf(http.StatusMethodNotAllowed, "Method Not Allowed")
	werr.Allow = strings.Join(append(allow, http.MethodOptions), ", ")
	return "", werr
}

// parseBody decides where the text and the parameters come from. If the query
// names a coordinate or a document, the raw body is the text, whatever its
// Content-Type says, since curl -d claims a form; else a form is read.
func (req *request) parseBody(r *http.Request, params *parameters, limit int64) *wire.Error {
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		return nil // a body that came with a read is ignored
	}
	if req.op != wire.Replace && !params.hasCoordinate && !params.hasDocument && isForm(r) {
		return params.parseForm(r, limit)
	}
	if !req.rule.Text {
		return nil
	}
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	text := &clientText{r: r.Body, left: limit}
	req.body, req.length, req.text = text, r.ContentLength, text
	if req.length < 0 {
		// Whether a chunked body is empty shows only when it is read.
		peeked := bufio.NewReaderSize(r.Body, 512)
		switch _, err := peeked.Peek(1); {
		case err == nil:
			text.r = peeked
		case errors.Is(err, io.EOF):
			req.body, req.length = nil, 0
		default:
			return brokenBody("body", err)
		}
	} else if req.length == 0 {
		req.body = nil
	}
	return nil
}

func isForm(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "application/x-www-form-urlencoded"
}

// parseForm reads the parameters from the body.
func (p *parameters) parseForm(r *http.Request, limit int64) *wire.Error {
	// A byte of text takes at most three in a form; the rest of the form is
	// names, a coordinate and a document.
	most := 3*limit + 4096
	if r.ContentLength > most {
		return tooLarge(limit)
	}
	form, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	if err != nil {
		return brokenBody("form", err)
	}
	if int64(len(form)) > most {
		return tooLarge(limit)
	}
	if werr := p.parse(string(form), "form"); werr != nil {
		return werr
	}
	if int64(len(p.text)) > limit {
		return tooLarge(limit)
	}
	return nil
}

func tooLarge(limit int64) *wire.Error {
	return wire.Errorf(http.StatusRequestEntityTooLarge, "text is larger than %d bytes", limit)
}

// parse reads name=value pairs. Unlike net/url it takes ';' as a plain
// character, since a coordinate may hold it, and refuses a name given twice.
func (p *parameters) parse(pairs, where string) *wire.Error {
	for pair := range strings.SplitSeq(pairs, "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			return wire.Errorf(http.StatusBadRequest, "%s: bad percent-escape in a parameter's name", where)
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil {
			return wire.Errorf(http.StatusBadRequest, "%s: bad percent-escape in a parameter's value", where)
		}
		if name == "text" || name == "content" {
			name = "s"
		}
		if slices.Contains(p.seen, name) {
			return wire.Errorf(http.StatusBadRequest, "%s: a parameter is given twice (s, text and content are one)", where)
		}
		if len(p.seen) == maxParameters {
			return wire.Errorf(http.StatusBadRequest, "%s: more than %d parameters", where, maxParameters)
		}
		p.seen = append(p.seen, name)
		switch name {
		case "p":
			p.document, p.hasDocument = value, true
		case "c":
			p.coordinate, p.hasCoordinate = value, true
		case "s":
			p.text, p.hasText = value, true
		case "algo":
			p.algo = value
		case "limit":
			p.limit = value
		}
	}
	return nil
}

// maxParameters bounds the search for a name given twice.
const maxParameters = 32

// apply checks the parameters and puts them into the request. A document or a
// coordinate that the operation does not use is checked all the same.
func (req *request) apply(p *parameters) *wire.Error {
	if p.document == "" {
		p.document = wire.DefaultDocument
	}
	if err := wire.CheckDocument(p.document); err != nil {
		return wire.Errorf(http.StatusBadRequest, "p: %v", err)
	}
	switch {
	case req.document != "" && p.hasDocument:
		return wire.Errorf(http.StatusBadRequest, "p: the document is in the path already")
	case req.document == "" && req.rule.Document:
		req.document = p.document
	}

	if p.hasCoordinate {
		at, err := phext.ParseCoordinate(p.coordinate)
		if err != nil {
			return wire.Errorf(http.StatusBadRequest, "c: %v", err)
		}
		if req.rule.Coordinate != wire.Never {
			req.address.Coordinate, req.address.HasCoordinate = at, true
		}
	} else if req.rule.Coordinate == wire.Required {
		return wire.Errorf(http.StatusBadRequest, "c: the coordinate is missing: want nine numbers such as 1.1.1/1.1.1/1.1.1")
	}

	if req.rule.Text && req.body == nil && p.hasText && req.op != wire.Replace {
		if !utf8.ValidString(p.text) {
			return wire.Errorf(http.StatusBadRequest, "s: not valid UTF-8")
		}
		req.body, req.length = strings.NewReader(p.text), int64(len(p.text))
	}

	if req.op == wire.Where {
		if p.algo != "" && p.algo != "xor" && p.algo != "checksum" {
			return wire.Errorf(http.StatusBadRequest, "algo: want xor or checksum")
		}
		if p.limit != "" {
			if n, err := strconv.ParseUint(p.limit, 10, 31); err != nil || p.limit != strconv.FormatUint(n, 10) {
				return wire.Errorf(http.StatusBadRequest, "limit: want a whole number of bytes")
			}
		}
		req.algo, req.limit = p.algo, p.limit
	}
	return nil
}

var (
	// errTooLarge ends a body without a declared length that passes the limit.
	errTooLarge = errors.New("text is larger than allowed")

	// errBroken ends a body that the client did not send whole or well-formed.
	errBroken = errors.New("reading the client's body")
)

// clientText is a text as the client sends it. It fails, rather than ends, after
// left bytes, so that a text which is too long is never stored cut short.
type clientText struct {
	r       io.Reader
	left    int64
	mu      sync.Mutex            // held by Read
	reading atomic.Bool           // a Read waits for the client
	fault   atomic.Pointer[error] // what ended it, to tell the client's faults from the worker's
}

func (t *clientText) Read(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int64(len(b)) > t.left+1 {
		b = b[:t.left+1]
	}
	t.reading.Store(true)
	n, err := t.r.Read(b)
	t.reading.Store(false)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", errBroken, err)
	}
	if t.left -= int64(n); t.left < 0 {
		n, err = 0, errTooLarge
	}
	if err != nil && err != io.EOF {
		t.fault.Store(&err)
	}
	return n, err
}

// fault returns what was wrong with the text as far as it was read, or nil.
func (req *request) fault(ctx context.Context) error {
	if req.text == nil {
		return nil
	}
	if ctx.Err() != nil {
		// A read that fails ends the context before it returns: why it does is
		// about to be known.
		req.text.mu.Lock()
		defer req.text.mu.Unlock()
	}
	if err := req.text.fault.Load(); err != nil {
		return *err
	}
	return nil
}
