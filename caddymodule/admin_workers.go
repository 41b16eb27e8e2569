package caddymodule

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/wire"
)

// workerEntry is a tenant's worker as the admin API shows it.
type workerEntry struct {
	Tenant  string     `json:"tenant"`
	State   string     `json:"state"`
	PID     int        `json:"pid,omitempty"`
	Since   *time.Time `json:"since"` // of the state, UTC; null where the tenant was never asked for
	Starts  int        `json:"starts"`
	Crashes int        `json:"crashes"`
	Memory  int64      `json:"memory,omitempty"` // resident, in bytes
	Held    bool       `json:"held"`
	Yields  bool       `json:"yields,omitempty"` // uses far more of the processors than the others and runs where nobody else wants to
}

func showWorker(st supervisor.Status) workerEntry {
	entry := workerEntry{
		Tenant: st.Tenant, State: string(st.State), PID: st.PID,
		Starts: st.Starts, Crashes: st.Crashes, Memory: st.RSS, Held: st.Held, Yields: st.Yields,
	}
	if !st.Since.IsZero() {
		since := st.Since.UTC()
		entry.Since = &since
	}
	return entry
}

// workers lists the workers of all tenants in the file that were asked for since
// the edge began; of the others there is nothing to say but that they sleep.
func (a *Admin) workers(s *serving) any {
	answer := struct {
		Workers []workerEntry `json:"workers"`
	}{Workers: []workerEntry{}}
	registry := s.file.Registry()
	for _, status := range s.super.Statuses() {
		if registry.ByID(status.Tenant) != nil {
			answer.Workers = append(answer.Workers, showWorker(status))
		}
	}
	return answer
}

// routeWorkers finds and runs the endpoint of a path below workers.
func (a *Admin) routeWorkers(s *serving, r *http.Request, path []string) (any, *wire.Error) {
	switch {
	case len(path) == 0:
		if werr := allowMethods(r, http.MethodGet, http.MethodHead); werr != nil {
			return nil, werr
		}
		return a.workers(s), nil
	case len(path) == 1 && path[0] == "roll":
		if werr := allowMethods(r, http.MethodPost); werr != nil {
			return nil, werr
		}
		rolled := s.super.Roll()
		a.logger.Info("rolling the workers", zap.Int("workers", rolled))
		return struct {
			Rolling int `json:"rolling"`
		}{rolled}, nil
	case len(path) == 2 && (path[1] == "park" || path[1] == "restart" || path[1] == "release"):
		if werr := allowMethods(r, http.MethodPost); werr != nil {
			return nil, werr
		}
		return a.control(s, r, path[0], path[1])
	}
	return nil, wire.Errorf(http.StatusNotFound, "Not Found")
}

// control does what an operator wants with one worker and returns what it is
// then. It may be done again: what is so already stays so.
func (a *Admin) control(s *serving, r *http.Request, id, what string) (any, *wire.Error) {
	tenant := s.file.Registry().ByID(id)
	if tenant == nil {
		return nil, wire.Errorf(http.StatusNotFound, "there is no such tenant")
	}
	hold := false
	if what == "park" {
		var werr *wire.Error
		if hold, werr = readHold(r); werr != nil {
			return nil, werr
		}
	}
	// What was begun is finished even if the operator goes away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 2*time.Duration(a.app.DrainTimeout))
	defer cancel()
	var err error
	switch what {
	case "park":
		err = s.super.Park(ctx, id, hold)
	case "release":
		s.super.Release(id)
	case "restart":
		// Counted as a request, so that a tenant that is being removed has no
		// worker started after its data was moved.
		usage := a.app.runtime.usage.of(id)
		usage.enter()
		defer usage.leave()
		if !stillServed(s.file.Registry(), tenant) {
			return nil, wire.Errorf(http.StatusConflict, "the tenant is disabled or being removed")
		}
		err = s.super.Restart(ctx, workerSpec(tenant))
	}
	var notUp *supervisor.ErrUnavailable
	switch {
	case errors.Is(err, supervisor.ErrHeld):
		return nil, wire.Errorf(http.StatusConflict, "the tenant is held down: release it first")
	case errors.As(err, &notUp):
		werr := unavailable(seconds(notUp.RetryAfter), "the tenant's worker does not start; the edge's log says why")
		werr.Err = err
		return nil, werr
	case err != nil:
		return nil, &wire.Error{Status: http.StatusGatewayTimeout, Message: "the tenant's worker has not ended yet", Err: err}
	}
	a.logger.Info("an operator's wish for a worker is done", zap.String("tenant", id), zap.String("wish", what), zap.Bool("hold", hold))
	return showWorker(s.super.Status(id)), nil
}

// readHold reads hold=true of the query, or {"hold": true} of the body; not both.
func readHold(r *http.Request) (hold bool, werr *wire.Error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return false, wire.Errorf(http.StatusBadRequest, "the query is malformed")
	}
	for name, values := range query {
		if name != "hold" || len(values) != 1 || values[0] != "true" && values[0] != "false" {
			return false, wire.Errorf(http.StatusBadRequest, "the query may be hold=true or hold=false, once")
		}
		hold, _ = strconv.ParseBool(values[0])
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAdminBody+1))
	if err != nil {
		return false, wire.Errorf(http.StatusBadRequest, "reading the body: it ended early")
	}
	if len(body) == 0 {
		return hold, nil
	}
	if len(query) > 0 {
		return false, wire.Errorf(http.StatusBadRequest, "hold may be in the query or in the body, not in both")
	}
	var wish struct {
		Hold bool `json:"hold"`
	}
	werr = parseJSON(body, &wish)
	return wish.Hold, werr
}
