package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

// defaultQuotaMB is the quota of a tenant that is added without one.
const defaultQuotaMB = 1000

type addRequest struct {
	TenantID string `json:"tenant_id"`
	QuotaMB  *int64 `json:"quota_mb"`
}

// tenantAnswer is a tenant as the admin API shows it.
type tenantAnswer struct {
	ID      string `json:"id"`
	APIKey  string `json:"api_key,omitempty"` // only where it was just made
	DataDir string `json:"data_dir"`
	QuotaMB int64  `json:"quota_mb"`
	Enabled bool   `json:"enabled"`
}

type removeAnswer struct {
	ID         string `json:"id"`
	ArchivedTo string `json:"archived_to"` // empty where the tenant had no data directory
}

func (a *Admin) list(s *serving) any {
	answer := struct {
		Tenants []tenantAnswer `json:"tenants"`
	}{Tenants: []tenantAnswer{}}
	for _, t := range s.file.Registry().Tenants() {
		answer.Tenants = append(answer.Tenants, showTenant(t))
	}
	return answer
}

func showTenant(t *tenants.Tenant) tenantAnswer {
	return tenantAnswer{ID: t.ID, DataDir: t.DataDir, QuotaMB: t.QuotaMB, Enabled: t.Enabled}
}

// add makes a tenant: its data directory, its key and its entry. It is in force
// when this returns.
func (a *Admin) add(s *serving, body addRequest) (any, *wire.Error) {
	if err := tenants.CheckID(body.TenantID); err != nil {
		return nil, wire.Errorf(http.StatusBadRequest, "tenant_id: %v", err)
	}
	quota := int64(defaultQuotaMB)
	if body.QuotaMB != nil {
		quota = *body.QuotaMB
	}
	if quota < 0 || quota > tenants.MaxQuotaMB {
		return nil, wire.Errorf(http.StatusBadRequest, "quota_mb: want 0 (none) to %d", int64(tenants.MaxQuotaMB))
	}
	tenant, key, err := a.app.addTenant(s.file, body.TenantID, quota)
	switch {
	case errors.Is(err, tenants.ErrExists) || errors.Is(err, tenants.ErrDirTaken) || errors.Is(err, fs.ErrExist):
		return nil, &wire.Error{Status: http.StatusConflict, Message: "a tenant of this id, or its data directory, exists already"}
	case err != nil:
		return nil, &wire.Error{Status: http.StatusInternalServerError, Message: "the tenant was not added; the edge's log says why", Err: err}
	}
	a.logger.Info("added a tenant", zap.String("tenant", tenant.ID), zap.Int64("quota_mb", quota))
	answer := showTenant(tenant)
	answer.APIKey = key
	return answer, nil
}

// addTenant creates the data directory first: an entry without one would be a
// tenant whose every request fails.
func (a *App) addTenant(file *tenants.File, id string, quotaMB int64) (*tenants.Tenant, string, error) {
	if file.Registry().ByID(id) != nil {
		return nil, "", tenants.ErrExists
	}
	if err := os.MkdirAll(a.DataRoot, 0o700); err != nil {
		return nil, "", fmt.Errorf("creating the data root: %w", err)
	}
	dir := filepath.Join(a.DataRoot, id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("creating the data directory: %w", err)
	}
	key, tenant, err := file.Add(tenants.NewTenant{ID: id, DataDir: dir, QuotaMB: quotaMB})
	if err != nil {
		os.Remove(dir) // ours and empty
		return nil, "", err
	}
	return tenant, key, nil
}

// remove takes a tenant out of the file, ends its worker and moves its data
// aside. The key is dead from the first step on; nothing is ever deleted.
func (a *Admin) remove(ctx context.Context, s *serving, id string) (any, *wire.Error) {
	hadUser := s.owners.HasUID(id) // before it is forgotten
	tenant, err := s.file.Remove(id)
	switch {
	case errors.Is(err, tenants.ErrNotFound):
		return nil, wire.Errorf(http.StatusNotFound, "there is no such tenant")
	case err != nil:
		return nil, &wire.Error{Status: http.StatusInternalServerError, Message: "the tenant was not removed; the edge's log says why", Err: err}
	}
	// From here on the work is finished even if the client goes away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Duration(a.app.DrainTimeout))
	defer cancel()
	rt := a.app.runtime
	if err := rt.drainTenant(ctx, id); err != nil {
		return nil, &wire.Error{Status: http.StatusInternalServerError, Message: "the tenant's key is dead, but its worker did not end; its data stays where it is", Err: err}
	}
	archived, err := a.app.archive(tenant, hadUser)
	if err != nil {
		return nil, &wire.Error{Status: http.StatusInternalServerError, Message: "the tenant's key is dead, but its data was not archived; the edge's log says why", Err: err}
	}
	rt.usage.forget(id)
	rt.metrics.workers.forget(id)
	rt.forgetOwner(id)
	s.super.Release(id) // the next tenant of this id is not this one
	a.logger.Info("removed a tenant", zap.String("tenant", id), zap.String("archived_to", archived))
	return removeAnswer{ID: id, ArchivedTo: archived}, nil
}

// adopt has the next worker of a tenant take the data directory as it is: the one
// that the edge knows is gone, and a person has put another in its place.
func (a *Admin) adopt(s *serving, id string) (any, *wire.Error) {
	tenant := s.file.Registry().ByID(id)
	if tenant == nil {
		return nil, wire.Errorf(http.StatusNotFound, "there is no such tenant")
	}
	if err := s.owners.SetID(id, ""); err != nil {
		return nil, &wire.Error{Status: http.StatusInternalServerError, Message: "this was not recorded; the edge's log says why", Err: err}
	}
	a.logger.Info("the next worker takes the tenant's data directory as it is", zap.String("tenant", id), zap.String("data_dir", tenant.DataDir))
	return showTenant(tenant), nil
}

// archive moves a tenant's data directory to .archive in the data root. One that is
// its worker's own user's becomes the edge's again, since another tenant's worker
// may be that user one day, and the edge may not move what is another's.
func (a *App) archive(t *tenants.Tenant, takeBack bool) (string, error) {
	if takeBack {
		if err := supervisor.TakeBack(t.DataDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("archiving: %w", err)
		}
	}
	shelf := filepath.Join(a.DataRoot, ".archive")
	if err := os.MkdirAll(shelf, 0o700); err != nil {
		return "", fmt.Errorf("creating the archive: %w", err)
	}
	base := filepath.Join(shelf, t.ID+"-"+time.Now().UTC().Format("20060102T150405.000Z"))
	for try := 1; ; try++ {
		to := base
		if try > 1 {
			to = fmt.Sprintf("%s-%d", base, try)
		}
		// A rename onto an empty directory would succeed and hide it.
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		err := os.Rename(t.DataDir, to)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", nil
		case err != nil:
			return "", fmt.Errorf("archiving %s: %w: a data directory outside the data root may need to be moved by hand", t.DataDir, err)
		}
		return to, nil
	}
}
