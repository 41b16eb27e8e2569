package supervisor

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxIdleConns is how many connections to a worker are kept for the next
	// requests.
	maxIdleConns = 128

	// idleConnTimeout must stay below the time after which a worker closes a
	// connection on which nothing came: a request sent just then would fail.
	idleConnTimeout = 30 * time.Second

	maxAnswerHeader = 64 << 10 // bytes
)

func newTransport(g *generation, responseTimeout time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:            g.dial,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdleConns,
		IdleConnTimeout:        idleConnTimeout,
		ResponseHeaderTimeout:  responseTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
	}
}

// dial connects to the worker, whatever address it is given.
func (g *generation) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		c, err := d.DialContext(ctx, "unix", g.socket)
		if err == nil {
			select {
			case <-g.exited:
				// Behind the path may be the next generation by now, which
				// must get no request that was meant for this one: its sender
				// has been told that it came to nothing.
				c.Close()
				return nil, syscall.ECONNREFUSED
			default:
				return &conn{Conn: c}, nil
			}
		}
		// A unix socket whose backlog is full refuses with EAGAIN, and tells
		// nobody when there is room again.
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// gone reports whether a failed dial means that nobody listens any more.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// conn knows whether anything was written since a moment. It hides the ReadFrom
// of the connection it wraps, so that nothing is written past it.
type conn struct {
	net.Conn
	writes atomic.Int64 // that have begun, without those that wrote nothing
}

func (c *conn) Write(b []byte) (int, error) {
	// Counted first: whoever reads the count after closing the connection
	// learns of every write that could have got through.
	c.writes.Add(1)
	n, err := c.Conn.Write(b)
	if n == 0 && err != nil {
		c.writes.Add(-1)
	}
	return n, err
}
