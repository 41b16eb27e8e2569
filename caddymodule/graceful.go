package caddymodule

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"golang.org/x/sys/unix"
)

func init() {
	caddy.RegisterModule(GracefulListener{})
}

// GracefulListener is the listener wrapper sq_graceful. It accepts connections
// only while the server can serve them: not before the config has started, when
// there may be no certificate yet, and not once it is stopping, when net/http
// closes every HTTP/1 connection whose first request it has not read. It leaves
// them to the process or the config that comes next, which has them if the
// listening socket stays: where systemd holds it, or the wrapped listener is of
// another kind that outlives this one. A TCP socket of Caddy's own does not: each
// config has another one, and what waits in a closed one's queue is reset. From
// such a socket connections are taken to the last.
//
// It goes before tls.
type GracefulListener struct {
	door *door
}

// CaddyModule returns the Caddy module information.
func (GracefulListener) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.sq_graceful",
		New: func() caddy.Module { return new(GracefulListener) },
	}
}

// Provision has the server tell which connections have begun to be served.
func (g *GracefulListener) Provision(ctx caddy.Context) error {
	app, err := findApp(ctx)
	if err != nil {
		return err
	}
	g.door = app.door
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterConnState(g.door.connState)
		g.door.servers = append(g.door.servers, server)
	}
	return nil
}

// UnmarshalCaddyfile sets up the wrapper. Syntax:
//
//	sq_graceful
func (*GracefulListener) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the wrapper's name
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(0) {
		return d.Err("the listener wrapper sq_graceful has no options")
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (g *GracefulListener) WrapListener(l net.Listener) net.Listener {
	d := &doorListener{Listener: l, door: g.door, ends: endsWithConfig(l), closed: make(chan struct{})}
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	g.door.listeners = append(g.door.listeners, d)
	return d
}

const (
	// leaveTimeout is how long stopping waits for the first requests of
	// connections that were accepted: one that says nothing is not waited for.
	leaveTimeout = time.Second

	// certTimeout is how long clients wait for the certificates, which Caddy
	// loads in the background, in some milliseconds. One that must be obtained
	// first may need connections for that.
	certTimeout = time.Second

	// leavePause is far more than net/http needs from telling that it has read
	// a request until it looks whether it is stopping.
	leavePause = 10 * time.Millisecond
)

// door is open while a config is in force. It handles Caddy's events started and
// stopping.
type door struct {
	open, shut chan struct{}

	// fresh are the connections that were accepted and have not sent a request
	// yet, by the client's address, and count is their number.
	fresh sync.Map
	count atomic.Int64

	servers []*caddyhttp.Server

	mu        sync.Mutex
	listeners []*doorListener
}

func newDoor() *door {
	return &door{open: make(chan struct{}), shut: make(chan struct{})}
}

// Handle implements caddyevents.Handler. Caddy emits each event once, and waits.
func (d *door) Handle(_ context.Context, e caddy.Event) error {
	if e.Name() == "started" {
		go d.unlock()
		return nil
	}
	close(d.shut)
	<-d.open // so that nobody looks for certificates when they are gone
	d.mu.Lock()
	for _, l := range d.listeners {
		l.wake()
	}
	d.mu.Unlock()
	tick := time.NewTicker(leavePause)
	defer tick.Stop()
	for end := time.Now().Add(leaveTimeout); time.Now().Before(end); {
		none := d.count.Load() == 0
		<-tick.C
		if none && d.count.Load() == 0 {
			break
		}
	}
	return nil
}

// unlock opens the door once there are certificates.
func (d *door) unlock() {
	defer close(d.open)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(certTimeout); !d.certified() && time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-d.shut:
			return
		}
	}
}

// certified reports whether each name that is served over TLS has a certificate.
func (d *door) certified() bool {
	for _, server := range d.servers {
		if len(server.TLSConnPolicies) == 0 {
			continue
		}
		for _, route := range server.Routes {
			for _, set := range route.MatcherSets {
				for _, matcher := range set {
					hosts, ok := matcher.(*caddyhttp.MatchHost)
					if !ok {
						continue
					}
					for _, host := range *hosts {
						if len(caddytls.AllMatchingCertificates(host)) == 0 {
							return false
						}
					}
				}
			}
		}
	}
	return true
}

func (d *door) accepted(c net.Conn) {
	if _, loaded := d.fresh.LoadOrStore(c.RemoteAddr().String(), nil); !loaded {
		d.count.Add(1)
	}
}

func (d *door) connState(c net.Conn, state http.ConnState) {
	if state == http.StateNew || d.count.Load() == 0 {
		return
	}
	if _, loaded := d.fresh.LoadAndDelete(c.RemoteAddr().String()); loaded {
		d.count.Add(-1)
	}
}

type doorListener struct {
	net.Listener
	door   *door
	ends   bool // its socket, with the config
	once   sync.Once
	closed chan struct{}
}

// Accept waits while the door is not open, and, once it is shut, for Close, unless
// its socket ends with that.
func (l *doorListener) Accept() (net.Conn, error) {
	select {
	case <-l.door.open:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	shut := l.door.shut
	if l.ends {
		shut = nil
	}
	select {
	case <-shut:
	default:
		c, err := l.Listener.Accept()
		if err == nil {
			l.door.accepted(c)
			return c, nil
		}
		select {
		case <-shut:
		default:
			return nil, err
		}
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *doorListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// wake ends an Accept under way, so that no connection is taken that comes later.
// Where it cannot, one may be.
func (l *doorListener) wake() {
	if l.ends {
		return
	}
	if inner, ok := unwrap[interface{ SetDeadline(time.Time) error }](l.Listener); ok {
		inner.SetDeadline(time.Now())
	}
}

// endsWithConfig reports whether another socket listens at the same address for
// each config: Caddy sets SO_REUSEPORT for that.
func endsWithConfig(l net.Listener) (ends bool) {
	inner, ok := unwrap[syscall.Conn](l)
	if !ok {
		return false
	}
	raw, err := inner.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		set, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT)
		ends = err == nil && set != 0
	})
	return ends
}

// unwrap returns a listener as what else it is. Caddy's own wrapper embeds it as
// the interface, which hides that.
func unwrap[T any](l net.Listener) (inner T, ok bool) {
	if inner, ok = l.(T); ok {
		return inner, true
	}
	if v := reflect.ValueOf(l); v.Kind() == reflect.Struct {
		if field := v.FieldByName("Listener"); field.IsValid() && field.CanInterface() {
			inner, ok = field.Interface().(T)
		}
	}
	return inner, ok
}

// Interface guards
var (
	_ caddy.Provisioner     = (*GracefulListener)(nil)
	_ caddy.ListenerWrapper = (*GracefulListener)(nil)
	_ caddyfile.Unmarshaler = (*GracefulListener)(nil)
)
