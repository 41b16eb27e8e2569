package caddymodule

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

func init() {
	caddy.RegisterModule(Auth{})
}

// Auth is the HTTP handler sq_auth: it refuses a request without a tenant's key
// and hands every other on, with {http.auth.user.id} set. The gateway does as
// much by itself; sq_auth is for handlers that must know the tenant before the
// gateway answers, such as a rate limiter. Requests that sq_admin answers pass.
type Auth struct {
	app *App
}

// CaddyModule returns the Caddy module information.
func (Auth) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sq_auth",
		New: func() caddy.Module { return new(Auth) },
	}
}

// Provision finds the sq app.
func (a *Auth) Provision(ctx caddy.Context) (err error) {
	a.app, err = findApp(ctx)
	return err
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (a *Auth) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method == http.MethodOptions || isAdminPath(r.URL.EscapedPath()) {
		return next.ServeHTTP(w, r)
	}
	s := a.app.runtime.await(r.Context())
	if s == nil {
		a.app.secureHeaders(w.Header(), r)
		refuse(w, r, unavailable(1, "the service is starting"))
		return nil
	}
	if _, werr := a.app.runtime.authenticate(r, s.file.Registry()); werr != nil {
		a.app.secureHeaders(w.Header(), r)
		a.app.runtime.refuseKey(w, r, werr)
		return nil
	}
	return next.ServeHTTP(w, r)
}

// keyHeader carries a key where Authorization is not at hand.
const keyHeader = "X-Sq-Api-Key"

// clientKey returns the key a request presents, or "" where it presents none
// or two that disagree. Authorization holds a bearer token, with its scheme in
// any case, or the bare key.
func clientKey(h http.Header) string {
	key := ""
	for _, value := range h["Authorization"] {
		value = strings.TrimSpace(value)
		if scheme, token, ok := strings.Cut(value, " "); ok && strings.EqualFold(scheme, "Bearer") {
			value = strings.TrimSpace(token)
		}
		if !agree(&key, value) {
			return ""
		}
	}
	for _, value := range h[keyHeader] {
		if !agree(&key, strings.TrimSpace(value)) {
			return ""
		}
	}
	return key
}

// agree notes value as the key, unless another one was presented.
func agree(key *string, value string) bool {
	if *key != "" && *key != value {
		return false
	}
	*key = value
	return value != ""
}

// authenticate finds the tenant whose key r presents. On success the request
// carries the placeholder {http.auth.user.id}, which Caddy's access log and
// other modules use.
func (rt *runtime) authenticate(r *http.Request, registry *tenants.Registry) (*tenants.Tenant, *wire.Error) {
	tenant, admin := registry.ByKey(clientKey(r.Header))
	switch {
	case admin:
		return nil, wire.Errorf(http.StatusForbidden, "the admin key opens no documents: use a tenant's key")
	case tenant == nil:
		return nil, wire.Errorf(http.StatusUnauthorized, "Unauthorized")
	case !tenant.Enabled:
		return nil, wire.Errorf(http.StatusForbidden, "this tenant is disabled")
	}
	setUser(r, tenant.ID)
	return tenant, nil
}

func setUser(r *http.Request, id string) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.auth.user.id", id)
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Auth)(nil)
	_ caddyhttp.MiddlewareHandler = (*Auth)(nil)
)
