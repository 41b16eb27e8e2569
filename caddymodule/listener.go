package caddymodule

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(StrictListener{})
}

// StrictListener is the listener wrapper sq. It has every HTTP/1 request refused
// that could be read in two ways, so that none can hide a second one from a
// proxy in front: one with both Content-Length and Transfer-Encoding, with a
// transfer coding other than a single chunked, with more than one length, with
// folded headers, with lines that do not end in CRLF. net/http forgets the
// length of such a request before any handler could see it. The client is
// answered 400, after the answers to what it sent before, and its connection is
// closed. HTTP/2 and HTTP/3 frame requests themselves and are not touched.
//
// It goes behind tls, which is where Caddy puts a wrapper that stands alone.
type StrictListener struct{}

// CaddyModule returns the Caddy module information.
func (StrictListener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.sq",
		New: func() caddy.Module { return new(StrictListener) },
	}
}

// Provision tells the sq app that the server is guarded.
func (*StrictListener) Provision(ctx caddy.Context) error {
	app, err := findApp(ctx)
	if err != nil {
		return err
	}
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		app.strict[server] = true
	}
	return nil
}

// UnmarshalCaddyfile sets up the wrapper. Syntax:
//
//	sq
func (*StrictListener) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the wrapper's name
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(0) {
		return d.Err("the listener wrapper sq has no options")
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (*StrictListener) WrapListener(l net.Listener) net.Listener { return strictListener{l} }

type strictListener struct{ net.Listener }

func (l strictListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	strict := &strictConn{Conn: c}
	if state, ok := c.(connectionStater); ok {
		return strictTLSConn{strict, state}, nil
	}
	return strict, nil
}

// connectionStater is how Caddy recognizes a connection with TLS, whoever wraps
// it.
type connectionStater interface{ ConnectionState() tls.ConnectionState }

type strictTLSConn struct {
	*strictConn
	connectionStater
}

// strictConn damages what the client sends where its framing stops being clear.
type strictConn struct {
	net.Conn
	framing framing
	damaged bool
	odd     bool        // the damage ended within its pattern
	refused atomic.Bool // damaged, and not closed yet
	opaque  atomic.Bool
}

// Read lets pass what is clear. In place of all else it reads damage without an
// end, which net/http refuses wherever it stands: so it answers in its turn, and
// never sees what comes after. An end would look as if the client had left.
func (c *strictConn) Read(p []byte) (int, error) {
	if c.damaged {
		c.damage(p)
		return len(p), nil
	}
	n, err := c.Conn.Read(p)
	if err != nil && c.framing.state == inPreface {
		answerPlainHTTP(err)
	}
	if c.opaque.Load() {
		return n, err
	}
	if good := c.framing.follow(p[:n]); good < n {
		c.damaged = true
		c.refused.Store(true)
		c.damage(p[good:])
		return len(p), nil
	}
	return n, err
}

// damage fills p with lines of a NUL each. A NUL makes any line bad, of a head as
// of a chunked body; no CR and no empty line ends either of them.
func (c *strictConn) damage(p []byte) {
	for i := range p {
		p[i] = 0
		if c.odd {
			p[i] = '\n'
		}
		c.odd = !c.odd
	}
}

// SetDeadline clears the deadlines of a connection that a handler takes over, as
// for WebSocket: the one case in which net/http sets both at once. What the
// client sends from then on is no HTTP/1.
func (c *strictConn) SetDeadline(t time.Time) error {
	if t.IsZero() {
		c.opaque.Store(true)
	}
	return c.Conn.SetDeadline(t)
}

// CloseWrite lets net/http end an answer before the client has sent all.
func (c *strictConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close of a connection that was refused reads for a moment what the client still
// sends: else the kernel resets the connection, and that may overtake the 400.
func (c *strictConn) Close() error {
	const longest, most = 500 * time.Millisecond, 256 << 10 // bytes
	if c.refused.CompareAndSwap(true, false) && c.CloseWrite() == nil {
		c.Conn.SetReadDeadline(time.Now().Add(longest))
		io.CopyN(io.Discard, c.Conn, most)
	}
	return c.Conn.Close()
}

// answerPlainHTTP tells a client that speaks HTTP where TLS is spoken. net/http
// does so for a *tls.Conn alone.
func answerPlainHTTP(err error) {
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && plain.Conn != nil && plain.RecordHeader[0] >= 'A' && plain.RecordHeader[0] <= 'Z' {
		io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		plain.Conn.Close()
	}
}

// Interface guards
var (
	_ caddy.Provisioner     = (*StrictListener)(nil)
	_ caddy.ListenerWrapper = (*StrictListener)(nil)
	_ caddyfile.Unmarshaler = (*StrictListener)(nil)
)
