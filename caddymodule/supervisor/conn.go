package supervisor

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"sync"
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

	connBuffer = 4 << 10 // bytes, for reading and for writing each

	maxAnswerHeader = 64 << 10 // bytes
)

var errAnswerHeader = errors.New("the answer's header is larger than 64 KiB")

// conn is a connection to a worker. It carries one request at a time.
type conn struct {
	net.Conn
	r     *bufio.Reader
	w     *bufio.Writer
	since time.Time // idle since

	bounded bool // a header is being read, of which left bytes may still come
	left    int

	wrote int64 // bytes of the request

	awaiting *exchange // to be told when the answer's header does not come at once

	until time.Time // the deadline of reads that was set last, or zero
}

func newConn(c net.Conn) *conn {
	out := &conn{Conn: c}
	out.r, out.w = bufio.NewReaderSize(out, connBuffer), bufio.NewWriterSize(out, connBuffer)
	return out
}

// Read keeps a worker that went mad from filling the edge's memory with a header,
// and tells an exchange that its answer takes long.
func (c *conn) Read(p []byte) (int, error) {
	if c.bounded {
		if c.left == 0 {
			return 0, errAnswerHeader
		}
		p = p[:min(len(p), c.left)]
	}
	n, err := c.Conn.Read(p)
	if e := c.awaiting; e != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		c.awaiting = nil
		if err = e.goOn(); err == nil {
			n, err = c.Conn.Read(p)
		}
	}
	c.left -= n
	return n, err
}

// readUntil sets the deadline of reads; the zero time is none. It is for the
// goroutine that reads.
func (c *conn) readUntil(t time.Time) error {
	c.until = t
	return c.SetReadDeadline(t)
}

// Write counts, so that it is known whether a worker may have seen a request.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wrote += int64(n)
	return n, err
}

// pool keeps a generation's idle connections. The one used last is used next,
// so that those not needed grow old and are closed.
type pool struct {
	mu     sync.Mutex
	idle   []*conn // the longest idle first
	closed bool
	timer  *time.Timer // closes those that were idle for too long; nil while none is
}

// take returns an idle connection, or nil.
func (p *pool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	if time.Since(c.since) > idleConnTimeout {
		c.Close() // the timer is late; it sees to the rest
		return nil
	}
	return c
}

// put keeps c for the next request, or closes it.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) == maxIdleConns {
		c.Close()
		return
	}
	c.since = time.Now()
	p.idle = append(p.idle, c)
	if p.timer == nil {
		p.timer = time.AfterFunc(idleConnTimeout, p.expire)
	}
}

func (p *pool) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].since) >= idleConnTimeout {
		p.idle[n].Close()
		n++
	}
	p.idle = append(p.idle[:0], p.idle[n:]...)
	p.timer = nil
	if len(p.idle) > 0 {
		p.timer = time.AfterFunc(idleConnTimeout-time.Since(p.idle[0].since), p.expire)
	}
}

// close closes the idle connections and keeps no more.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
	if p.timer != nil {
		p.timer.Stop()
	}
}

// connect returns an idle connection to the worker, or a new one.
func (g *generation) connect(ctx context.Context) (*conn, error) {
	if c := g.pool.take(); c != nil {
		return c, nil
	}
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
				return newConn(c), nil
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
