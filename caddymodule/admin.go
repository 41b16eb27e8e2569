package caddymodule

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

func init() {
	caddy.RegisterModule(Admin{})
}

// Admin is the HTTP handler sq_admin. It answers /healthz to anyone, and
// /api/v2/metrics and all below /api/v2/admin/ to whoever has the admin key;
// every other request goes on to the next handler.
type Admin struct {
	app     *App
	logger  *zap.Logger
	metrics http.Handler
}

// CaddyModule returns the Caddy module information.
func (Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sq_admin",
		New: func() caddy.Module { return new(Admin) },
	}
}

// Provision finds the sq app and the metrics registry of the config, the same
// that Caddy's own admin endpoint shows.
func (a *Admin) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	a.metrics = promhttp.HandlerFor(ctx.GetMetricsRegistry(), promhttp.HandlerOpts{
		ErrorLog: zap.NewStdLog(a.logger),
		// A worker that fails while it is asked must not hide the rest.
		ErrorHandling: promhttp.ContinueOnError,
	})
	var err error
	a.app, err = findApp(ctx)
	return err
}

// adminPrefix begins the paths of the admin API.
const adminPrefix = apiPrefix + "admin/"

// isAdminPath reports whether sq_admin answers requests for path.
func isAdminPath(path string) bool {
	return path == "/healthz" || path == apiPrefix+"metrics" || strings.HasPrefix(path, adminPrefix)
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (a *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	path := r.URL.EscapedPath()
	if !isAdminPath(path) {
		return next.ServeHTTP(w, r)
	}

	a.app.secureHeaders(w.Header(), r)
	if r.Method == http.MethodOptions {
		preflight(w)
		return nil
	}
	s := a.app.runtime.await(r.Context())
	if s == nil {
		wire.WriteError(w, r, unavailable(1, "the service is starting"))
		return nil
	}
	if path == "/healthz" {
		if werr := allowMethods(r, http.MethodGet, http.MethodHead); werr != nil {
			wire.WriteError(w, r, werr)
			return nil
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, "ok\n")
		return nil
	}
	// Whoever is not the admin is told no more than that, with a key or without.
	if _, admin := s.file.Registry().ByKey(clientKey(r.Header)); !admin {
		a.app.runtime.refuseKey(w, r, wire.Errorf(http.StatusForbidden, "this needs the admin key"))
		return nil
	}
	setUser(r, "admin")
	if path == apiPrefix+"metrics" {
		if werr := allowMethods(r, http.MethodGet, http.MethodHead); werr != nil {
			wire.WriteError(w, r, werr)
			return nil
		}
		a.metrics.ServeHTTP(w, r)
		return nil
	}
	answer, werr := a.route(s, r, strings.Split(strings.TrimPrefix(path, adminPrefix), "/"))
	if werr != nil {
		if werr.Err != nil {
			a.logger.Error("an admin request failed", zap.String("path", path), zap.Error(werr.Err))
		}
		wire.WriteError(w, r, werr)
		return nil
	}
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(answer)
}

// route finds and runs the endpoint of a path below /api/v2/admin/.
func (a *Admin) route(s *serving, r *http.Request, path []string) (any, *wire.Error) {
	switch {
	case len(path) == 1 && path[0] == "health":
		if werr := allowMethods(r, http.MethodGet, http.MethodHead); werr != nil {
			return nil, werr
		}
		return a.health(s), nil
	case path[0] == "workers":
		return a.routeWorkers(s, r, path[1:])
	case len(path) == 1 && path[0] == "tenants":
		if werr := allowMethods(r, http.MethodGet, http.MethodHead); werr != nil {
			return nil, werr
		}
		return a.list(s), nil
	case len(path) == 2 && path[0] == "tenants" && path[1] == "add" && r.Method != http.MethodDelete: // add may be a tenant's id
		if werr := allowMethods(r, http.MethodPost); werr != nil {
			return nil, werr
		}
		var body addRequest
		if werr := readJSON(r, &body); werr != nil {
			return nil, werr
		}
		return a.add(s, body)
	case len(path) == 2 && path[0] == "tenants":
		if werr := allowMethods(r, http.MethodDelete); werr != nil {
			return nil, werr
		}
		return a.remove(r.Context(), s, path[1])
	case len(path) == 3 && path[0] == "tenants" && path[2] == "adopt":
		if werr := allowMethods(r, http.MethodPost); werr != nil {
			return nil, werr
		}
		return a.adopt(s, path[1])
	case len(path) == 3 && path[0] == "tenants" && path[2] == "stats":
		if werr := allowMethods(r, http.MethodGet, http.MethodHead); werr != nil {
			return nil, werr
		}
		return a.stats(r.Context(), s, path[1])
	}
	return nil, wire.Errorf(http.StatusNotFound, "Not Found")
}

func allowMethods(r *http.Request, methods ...string) *wire.Error {
	for _, m := range methods {
		if r.Method == m {
			return nil
		}
	}
	werr := wire.Errorf(http.StatusMethodNotAllowed, "Method Not Allowed")
	werr.Allow = strings.Join(append(methods, http.MethodOptions), ", ")
	return werr
}

// maxAdminBody bounds the JSON of an admin request.
const maxAdminBody = 64 << 10

// readJSON reads the one JSON object that r's body must be.
func readJSON(r *http.Request, into any) *wire.Error {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxAdminBody+1))
	if err != nil {
		return brokenBody("body", err)
	}
	return parseJSON(data, into)
}

func parseJSON(data []byte, into any) *wire.Error {
	if len(data) > maxAdminBody {
		return wire.Errorf(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", maxAdminBody)
	}
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return wire.Errorf(http.StatusBadRequest, "the body is not the JSON this wants: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return wire.Errorf(http.StatusBadRequest, "the body holds more than one JSON value")
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Admin)(nil)
	_ caddyhttp.MiddlewareHandler = (*Admin)(nil)
)
