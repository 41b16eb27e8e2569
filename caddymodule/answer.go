package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
)

// maxKeptBody is the longest body of a read, in bytes, that is kept so that the
// read can be sent twice.
const maxKeptBody = 64 << 10

// answer is a worker's answer whose first bytes were read. The status of one that
// breaks off before them has not been passed on yet.
type answer struct {
	*http.Response
	buffer *[]byte
	n      int   // bytes at the buffer's beginning
	err    error // of reading them
}

// buffers are for copying answers; one is the size of a large TLS record twice.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// ask has the tenant's worker answer. A read whose worker dies is sent once more
// to the next one, which changes nothing that it could change twice. What a read
// is, package wire says: not the client's method, since there is a GET that
// inserts.
func (g *Gateway) ask(s *serving, spec supervisor.Spec, req *request, up *http.Request) (*answer, error) {
	repeatable := !req.rule.Write
	var kept []byte
	if repeatable && up.Body != nil {
		if repeatable = up.ContentLength >= 0 && up.ContentLength <= maxKeptBody; repeatable {
			var err error
			if kept, err = io.ReadAll(up.Body); err != nil {
				return nil, err
			}
			up.Body = io.NopCloser(bytes.NewReader(kept))
		}
	}
	ans, err := askOnce(s, spec, up)
	var died *supervisor.ErrDied
	if !repeatable || !errors.As(err, &died) || up.Context().Err() != nil {
		return ans, err
	}
	g.logger.Warn("sending a read again whose worker died", zap.String("tenant", spec.Tenant), zap.String("op", string(req.op)), zap.Error(err))
	g.app.runtime.metrics.repeated.Inc()
	if kept != nil {
		up.Body = io.NopCloser(bytes.NewReader(kept))
	}
	return askOnce(s, spec, up)
}

// askOnce returns an error, too, where the answer broke off before its first byte.
func askOnce(s *serving, spec supervisor.Spec, up *http.Request) (*answer, error) {
	resp, err := s.super.RoundTrip(spec, up)
	if err != nil {
		return nil, err
	}
	a := &answer{Response: resp, buffer: buffers.Get().(*[]byte)}
	for a.n == 0 && a.err == nil {
		a.n, a.err = resp.Body.Read(*a.buffer)
	}
	var died *supervisor.ErrDied
	if a.n == 0 && errors.As(a.err, &died) {
		a.close()
		return nil, a.err
	}
	return a, nil
}

// copyTo writes the body. It calls last before it writes the last of it: whoever
// has all of an answer must not find it counted still.
func (a *answer) copyTo(w io.Writer, last func()) error {
	for {
		if a.err == io.EOF {
			last()
		}
		if a.n > 0 {
			if _, err := w.Write((*a.buffer)[:a.n]); err != nil {
				return err
			}
		}
		if a.err == io.EOF {
			return nil
		}
		if a.err != nil {
			return a.err
		}
		a.n, a.err = a.Body.Read(*a.buffer)
	}
}

func (a *answer) close() {
	a.Body.Close()
	buffers.Put(a.buffer)
}
