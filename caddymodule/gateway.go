package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

func init() {
	caddy.RegisterModule(Gateway{})
}

// Gateway is the HTTP handler sq: it authenticates a request by its key, parses
// it strictly and has the tenant's own worker answer it. It answers every
// request that reaches it.
type Gateway struct {
	app    *App
	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Gateway) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sq",
		New: func() caddy.Module { return new(Gateway) },
	}
}

// Provision finds the sq app, and warns of a server without its listener
// wrapper, which Caddy provisions before a server's handlers.
func (g *Gateway) Provision(ctx caddy.Context) error {
	g.logger = ctx.Logger()
	var err error
	if g.app, err = findApp(ctx); err != nil {
		return err
	}
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if ok && !g.app.strict[server] && slices.Contains(server.Protocols, "h1") {
		g.app.strict[server] = true
		g.logger.Warn("HTTP/1 requests with both Content-Length and Transfer-Encoding are served, which a proxy in front may read in another way: "+
			"add listener_wrappers { sq } to the Caddyfile's global servers block", zap.String("server", server.Name()), zap.Strings("listen", server.Listen))
	}
	return nil
}

// findApp returns the sq app of the config; one with every option at its
// default where the config has none.
func findApp(ctx caddy.Context) (*App, error) {
	app, err := ctx.App("sq")
	if err != nil {
		return nil, fmt.Errorf("finding the sq app: %w", err)
	}
	return app.(*App), nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	g.app.secureHeaders(w.Header(), r)
	if r.Method == http.MethodOptions {
		preflight(w)
		return nil
	}
	began := time.Now()
	rt := g.app.runtime
	s := rt.await(r.Context())
	if s == nil {
		refuse(w, r, unavailable(1, "the service is starting"))
		return nil
	}
	tenant, werr := rt.authenticate(r, s.file.Registry())
	if werr != nil {
		rt.refuseKey(w, r, werr)
		return nil
	}
	usage := rt.usage.of(tenant.ID)
	usage.enter()
	defer usage.leave()

	op, status, err := g.serve(w, r, s, tenant, usage, began)
	rt.metrics.observe(usage, op, status, time.Since(began))
	if err != nil {
		if r.Context().Err() == nil {
			g.logger.Error("an answer broke off", zap.String("tenant", tenant.ID), zap.String("op", string(op)), zap.Error(err))
		}
		// The status is out; only a broken connection tells the client now.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// serve answers an authenticated request, if its tenant's limits let it in. It
// returns what the request was, the status it got, and an error where the answer
// broke off after its status.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, s *serving, tenant *tenants.Tenant, usage *usage, began time.Time) (wire.Op, int, error) {
	limits := tenant.Limits.Or(g.app.limits)
	place := &place{grant: grant{usage: usage, applied: usage.meter.apply(began, &limits)}, shedder: &g.app.runtime.shedder, began: began, most: g.app.MaxInFlight}
	defer place.release()
	if refusal := place.admit(began); refusal != nil {
		return g.refuseLimited(w, r, tenant, place, "limited", refusal)
	}
	place.setHeaders(w.Header())
	return g.answer(w, r, s, tenant, place)
}

// refuseLimited answers a request that would pass a limit.
func (g *Gateway) refuseLimited(w http.ResponseWriter, r *http.Request, tenant *tenants.Tenant, place *place, op wire.Op, refusal *refusal) (wire.Op, int, error) {
	g.app.runtime.limited(place.usage, tenant.ID, refusal.kind, time.Now())
	place.setHeaders(w.Header())
	refuseUnread(w, r, refusal.err)
	return op, refusal.err.Status, nil
}

// answer answers a request that is let in.
func (g *Gateway) answer(w http.ResponseWriter, r *http.Request, s *serving, tenant *tenants.Tenant, place *place) (wire.Op, int, error) {
	limits := &place.applied.limits
	req, werr := g.parse(r, limits)
	if werr != nil {
		refuseUnread(w, r, werr)
		return "invalid", werr.Status, nil
	}
	if isStream(req.op) && r.Method != http.MethodHead {
		if refusal := place.stream(); refusal != nil {
			return g.refuseLimited(w, r, tenant, place, req.op, refusal)
		}
		place.setHeaders(w.Header())
	}
	if !stillServed(s.file.Registry(), tenant) {
		werr := wire.Errorf(http.StatusUnauthorized, "Unauthorized")
		refuse(w, r, werr)
		return req.op, werr.Status, nil
	}
	req.address.Tenant = tenant.ID
	enter := func() error { return place.enter(r.Context(), req.cost()) }
	if req.body != nil && (req.length < 0 || req.length > largeText) {
		enter = nil // its client may be slow
	}
	ans, err := g.ask(r.Context(), s, workerSpec(tenant), req, req.upstream(r, tenant.QuotaBytes()), enter)
	place.begin()
	if err == nil {
		defer ans.close()
		if ans.StatusCode == http.StatusMisdirectedRequest {
			err = errMisdirected
		}
	}
	if fault := req.fault(r.Context()); fault != nil {
		err = fault // the worker saw the text break off, whatever it answered
	}
	if req.text != nil && req.text.reading.Load() {
		// The client is slow and its text is wanted no more. net/http would
		// wait for the rest of it before it answers, unless told to close.
		w.Header().Set("Connection", "close")
	}
	if busy := (*refusal)(nil); errors.As(err, &busy) {
		return g.refuseLimited(w, r, tenant, place, "limited", busy)
	}
	if err != nil {
		werr := g.refusal(r, req, tenant, limits, err)
		if werr.Status == http.StatusRequestTimeout && r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // what is left of the text would be taken for a request
		}
		refuse(w, r, werr)
		return req.op, werr.Status, nil
	}
	if (ans.ContentLength > largeAnswer || ans.ContentLength < 0) && r.Method != http.MethodHead {
		if refusal := place.stream(); refusal != nil {
			return g.refuseLimited(w, r, tenant, place, req.op, refusal)
		}
		place.setHeaders(w.Header())
	}
	copyHeaders(w.Header(), ans.Header)
	if r.Method != http.MethodHead && ans.whole() {
		// net/http counts what it is given at once. With this field there would be
		// nine, for which Go's maps need several times the memory of eight.
		delete(w.Header(), "Content-Length")
	}
	w.WriteHeader(ans.StatusCode)
	return req.op, ans.StatusCode, ans.copyTo(w, place.release)
}

// stillServed reports whether the tenant found before the request was read may
// still be served from the same place. A removed tenant must not have its
// worker started again: the admin handler waits for the requests that entered
// before the registry changed, and this refuses those that enter after.
func stillServed(registry *tenants.Registry, tenant *tenants.Tenant) bool {
	now := registry.ByID(tenant.ID)
	return now != nil && now.Enabled && now.DataDir == tenant.DataDir
}

// errMisdirected is never to happen: the worker found another tenant's name in
// the request. Nothing was touched.
var errMisdirected = errors.New("the worker serves another tenant; this is a routing fault")

func (g *Gateway) parse(r *http.Request, limits *tenants.Limits) (*request, *wire.Error) {
	for name := range r.Header {
		// What looks like the edge's own headers is an attempt to speak past
		// it. Nothing would be taken from them; saying so beats ignoring it.
		if (strings.HasPrefix(name, "X-Sq-") && name != keyHeader) || strings.HasPrefix(name, "Sq-") {
			return nil, wire.Errorf(http.StatusBadRequest, "header %s is not for clients to send", name)
		}
	}
	if len(r.Header["Content-Length"]) > 1 {
		// net/http refuses this of HTTP/1.1 by itself, but not of HTTP/2.
		return nil, wire.Errorf(http.StatusBadRequest, "header Content-Length is given twice")
	}
	return parseRequest(r, func(op wire.Op) int64 { return maxText(op, limits) })
}

// refuseUnread refuses a request whose body is not wanted. A client that asked
// before it sends one is answered at once: Caddy's wrapper of the body hides it
// from net/http, which else waits for the body so as to use the connection again.
func refuseUnread(w http.ResponseWriter, r *http.Request, werr *wire.Error) {
	if r.ProtoMajor == 1 && r.ContentLength > 0 && r.Header.Get("Expect") != "" {
		w.Header().Set("Connection", "close")
	}
	refuse(w, r, werr)
}

// refuse writes an error in the form that the operation's clients expect.
func refuse(w http.ResponseWriter, r *http.Request, werr *wire.Error) {
	if werr.Status == http.StatusUnauthorized {
		w.Header()["Www-Authenticate"] = []string{"Bearer"}
	}
	if strings.TrimPrefix(r.URL.Path, "/api/v2") == "/delta" {
		wire.WriteDeltaError(w, werr)
		return
	}
	wire.WriteError(w, r, werr)
}

// refusal turns the supervisor's error into an answer and a log line.
func (g *Gateway) refusal(r *http.Request, req *request, tenant *tenants.Tenant, limits *tenants.Limits, err error) *wire.Error {
	fields := []zap.Field{zap.String("tenant", tenant.ID), zap.String("op", string(req.op)), zap.Error(err)}
	var notUp *supervisor.ErrUnavailable
	var died *supervisor.ErrDied
	switch {
	case errors.Is(err, errTooLarge):
		return tooLarge(maxText(req.op, limits))
	case errors.Is(err, errMisdirected):
		g.app.runtime.metrics.misdirected.Inc()
		g.logger.Error("a request was routed wrongly", fields...)
		return wire.Errorf(http.StatusBadGateway, "the request was routed wrongly; nothing was changed")
	case errors.Is(err, errBroken) && errors.Is(err, os.ErrDeadlineExceeded):
		return brokenBody("body", err) // of HTTP/1, net/http has cancelled the context, too
	case r.Context().Err() != nil:
		g.logger.Debug("the client went away", fields...)
		return &wire.Error{Status: 499, Message: "client closed the request"}
	case errors.Is(err, errBroken):
		return brokenBody("body", err)
	case errors.Is(err, supervisor.ErrRefused):
		g.logger.Error("the tenant's worker refuses the data directory; somebody must look at it", fields...)
		return wire.Errorf(http.StatusConflict, "the tenant's data directory holds what is not its own, and nothing of it is served until that is put right")
	case errors.As(err, &notUp) && errors.As(err, &died):
		g.logger.Error("the tenant's worker is not available, after one has died with the request", fields...)
		return unavailable(seconds(notUp.RetryAfter), "the tenant's worker is not available"+outcome(req))
	case errors.As(err, &notUp) && errors.Is(err, supervisor.ErrHeld):
		g.logger.Info("the tenant is held down", fields...)
		return unavailable(seconds(notUp.RetryAfter), "the tenant is down for maintenance")
	case errors.As(err, &notUp):
		g.logger.Error("the tenant's worker is not available", fields...)
		return unavailable(seconds(notUp.RetryAfter), "the tenant's worker is not available")
	case errors.As(err, &died) && died.Unsent:
		g.logger.Error("the tenant's worker died before it got the request", fields...)
		return unavailable(1, "the tenant's worker is not available")
	case errors.Is(err, supervisor.ErrTimeout):
		g.logger.Error("the tenant's worker did not answer in time", fields...)
		return wire.Errorf(http.StatusGatewayTimeout, "the tenant's worker did not answer in time%s", outcome(req))
	default:
		g.logger.Error("the tenant's worker failed", fields...)
		return wire.Errorf(http.StatusBadGateway, "the tenant's worker failed while it answered%s", outcome(req))
	}
}

// outcome says what a client must know of a write that got no answer.
func outcome(req *request) string {
	switch {
	case req.key != "":
		return "; it is unknown whether the change was made: send it again with the same " + wire.HeaderClientKey + ", and it is made once"
	case req.rule.Write:
		return "; it is unknown whether the change was made: read before you send it again"
	}
	return ""
}

// seconds rounds up, so that who comes back then is not early; at least 1.
func seconds(d time.Duration) int {
	return max(int((d+time.Second-1)/time.Second), 1)
}

func unavailable(seconds int, message string) *wire.Error {
	werr := wire.Errorf(http.StatusServiceUnavailable, "%s; try again in %d s", message, seconds)
	werr.RetryAfter = seconds
	return werr
}

// upstream builds the worker's request from nothing: no header or parameter of
// the client's gets there but those named here.
func (req *request) upstream(r *http.Request, quota int64) *supervisor.Request {
	up := &supervisor.Request{Method: req.rule.Method()}
	if r.Method == http.MethodHead {
		up.Method = http.MethodHead
	}
	target := make([]byte, 0, 128)
	target = append(append(target, '/'), req.op...)
	target = append(target, "?"+wire.ParamAddress+"="...)
	target = req.address.Append(target) // of characters that need no escape
	if req.rule.Document {
		target = append(target, "&"+wire.ParamDocument+"="...)
		target = append(target, url.QueryEscape(req.document)...)
	}
	if req.algo != "" {
		target = append(target, "&"+wire.ParamAlgo+"="+req.algo...)
	}
	if req.limit != "" {
		target = append(target, "&"+wire.ParamLimit+"="+req.limit...)
	}
	up.Target = string(target)
	for _, name := range forwarded {
		for _, value := range r.Header[name] {
			up.Header.Add(name, value)
		}
	}
	if req.rule.Write {
		up.Header.Add(wire.HeaderQuota, strconv.FormatInt(quota, 10))
	}
	if req.key != "" {
		up.Header.Add(wire.HeaderKey, wire.QuoteKey(req.key))
	}
	if req.body != nil {
		up.Body, up.ContentLength = req.body, req.length
	}
	return up
}

// largeText is the length in bytes from which a text goes to the worker while it
// is being read, so that the client's speed is the request's.
const largeText = 64 << 10

// forwarded are the client's headers that a worker sees: what it may answer
// with, and the ids by which one request is traced across processes.
var forwarded = []string{"Accept", "Traceparent", "Tracestate"}

// returned are the worker's headers that a client sees. It sends none of them twice.
var returned = []string{"Content-Type", "Content-Length", "Content-Disposition", "Etag", "Sq-Seq", "Sq-Error", "Sq-Replayed", "Retry-After", "Allow", "Last-Modified"}

func copyHeaders(to http.Header, from supervisor.Header) {
	for i := range from {
		field := &from[i]
		if slices.Contains(returned, field.Name) {
			to[field.Name] = field.Value[:] // who appends gets memory of his own
		}
	}
	if to["Etag"] != nil {
		to["Cache-Control"] = []string{"private, no-cache"}
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Gateway)(nil)
	_ caddyhttp.MiddlewareHandler = (*Gateway)(nil)
)
