package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
)

// maxKeptBody is the longest body of a read, in bytes, that is kept so that the
// read can be sent twice.
const maxKeptBody = 64 << 10

// Of a write with an idempotency key: the longest body that is kept, in bytes, and
// how many workers may die with it before its client is told.
const (
	maxKeyedBody  = 1 << 20
	maxKeyedSends = 3
)

// answer is a worker's answer whose first bytes were read. The status of one that
// breaks off before them has not been passed on yet.
type answer struct {
	*supervisor.Answer
	buffer *[]byte
	n      int   // bytes at the buffer's beginning
	err    error // of reading them
}

// buffers are for copying answers; one is the size of a large TLS record twice.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// sends is how often a request goes to a worker that dies with it: a read, or a
// write with a key, which the next worker knows by that if the last one made it.
func (req *request) sends() (times int, maxBody int64) {
	switch {
	case !req.rule.Write && req.length >= 0:
		return 2, maxKeptBody
	case req.key != "":
		return maxKeyedSends, maxKeyedBody
	}
	return 1, 0
}

// ask has the tenant's worker answer. A request that may be sent again is, to the
// next worker, if the one that has it dies. What a read is, package wire says: not
// the client's method, since there is a GET that inserts. enter, unless nil, is
// called before the request goes to a worker that is ready.
func (g *Gateway) ask(ctx context.Context, s *serving, spec supervisor.Spec, req *request, up *supervisor.Request, enter func() error) (*answer, error) {
	sends, most := req.sends()
	var kept []byte
	if sends > 1 && up.Body != nil {
		whole := false
		var err error
		if kept, whole, err = keep(up, most); err != nil {
			return nil, err
		}
		if !whole {
			sends = 1
		}
	}
	var before error // of a write that may have been made
	for n := 1; ; n++ {
		ans, err := askOnce(ctx, s, spec, up, enter)
		if err == nil {
			return ans, nil
		}
		var died *supervisor.ErrDied
		if n == sends || !errors.As(err, &died) || ctx.Err() != nil {
			if before != nil {
				err = errors.Join(before, err)
			}
			return nil, err
		}
		again := "read"
		if req.rule.Write {
			again = "write with a key"
			g.app.runtime.metrics.repeatedWrites.Inc()
			if !died.Unsent {
				before = err
			}
		} else {
			g.app.runtime.metrics.repeated.Inc()
		}
		g.logger.Warn("sending a "+again+" again whose worker died", zap.String("tenant", spec.Tenant), zap.String("op", string(req.op)), zap.Error(err))
		next := *up // the last exchange may still look at the old one
		if up = &next; kept != nil {
			up.Body = bytes.NewReader(kept)
		}
	}
}

// keep reads a body of at most that many bytes, so that it can be sent again. One
// that turns out to be longer is left to be sent once.
func keep(up *supervisor.Request, most int64) (body []byte, whole bool, err error) {
	if up.ContentLength > most {
		return nil, false, nil
	}
	body, err = io.ReadAll(io.LimitReader(up.Body, most+1))
	if err != nil {
		return nil, false, err
	}
	if int64(len(body)) > most {
		up.Body = io.MultiReader(bytes.NewReader(body), up.Body)
		return nil, false, nil
	}
	if up.ContentLength >= 0 && int64(len(body)) < up.ContentLength {
		return nil, false, fmt.Errorf("the body has %d of %d bytes: %w", len(body), up.ContentLength, io.ErrUnexpectedEOF)
	}
	up.Body, up.ContentLength = bytes.NewReader(body), int64(len(body))
	return body, true, nil
}

// askOnce returns an error, too, where the answer broke off before its first byte.
func askOnce(ctx context.Context, s *serving, spec supervisor.Spec, up *supervisor.Request, enter func() error) (*answer, error) {
	ans, err := s.super.RoundTripWhen(ctx, spec, up, enter)
	if err != nil {
		return nil, err
	}
	a := &answer{Answer: ans, buffer: buffers.Get().(*[]byte)}
	for a.n == 0 && a.err == nil {
		a.n, a.err = ans.Body.Read(*a.buffer)
	}
	if a.n > 0 || a.err == io.EOF {
		return a, nil
	}
	var died *supervisor.ErrDied
	if errors.As(a.err, &died) {
		a.close()
		return nil, a.err
	}
	return a, nil
}

// whole says that all of the body is there, and is no more than net/http holds back
// of any answer until it knows if that is all.
func (a *answer) whole() bool { return a.err == io.EOF && a.n <= 2048 }

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
