package caddymodule

import (
	"context"
	"math"
	"net/http"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/wire"
)

// statsAnswer is one tenant's numbers.
type statsAnswer struct {
	ID           string  `json:"id"`
	Enabled      bool    `json:"enabled"`
	StorageBytes int64   `json:"storage_bytes"`
	StorageMB    float64 `json:"storage_mb"` // of 2^20 bytes, as the quota's
	QuotaMB      int64   `json:"quota_mb"`   // 0: none
	QuotaUsed    float64 `json:"quota_used"` // share, 0 to 1; 0 where there is no quota
	Documents    int     `json:"documents"`
	Scrolls      int64   `json:"scrolls"`
	usageRecord
	Worker workerAnswer `json:"worker"`
}

type workerAnswer struct {
	State         string  `json:"state"`
	PID           int     `json:"pid,omitempty"`
	UptimeSeconds float64 `json:"uptime_seconds,omitempty"`
	MemoryBytes   int64   `json:"memory_bytes,omitempty"` // resident
	Starts        int     `json:"starts"`                 // since the edge started
	LastError     string  `json:"last_error,omitempty"`
}

// statsTimeout bounds the wait for a worker that must be woken for its numbers.
const statsTimeout = 30 * time.Second

// stats asks the tenant's worker, waking it if need be, since only the owner of
// a data directory knows what it holds.
func (a *Admin) stats(ctx context.Context, s *serving, id string) (any, *wire.Error) {
	tenant := s.file.Registry().ByID(id)
	if tenant == nil {
		return nil, wire.Errorf(http.StatusNotFound, "there is no such tenant")
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	usage := a.app.runtime.usage.of(id)
	usage.enter()
	defer usage.leave()
	if !stillServed(s.file.Registry(), tenant) && tenant.Enabled {
		return nil, wire.Errorf(http.StatusNotFound, "there is no such tenant")
	}
	stored, err := askStats(ctx, s.super.RoundTrip, tenant)
	if err != nil {
		return nil, &wire.Error{Status: http.StatusServiceUnavailable, Message: "the tenant's worker gave no numbers; the edge's log says why", RetryAfter: 5, Err: err}
	}
	status := s.super.Status(id)
	if !tenant.Enabled {
		// It was woken to be asked and serves nobody.
		if err := s.super.Stop(ctx, id); err != nil {
			a.logger.Error("ending a disabled tenant's worker", zap.String("tenant", id), zap.Error(err))
		}
	}
	now := time.Now()
	answer := statsAnswer{
		ID: id, Enabled: tenant.Enabled,
		StorageBytes: stored.StorageBytes, StorageMB: round(float64(stored.StorageBytes)/(1<<20), 1e3),
		QuotaMB: tenant.QuotaMB, Documents: stored.Documents, Scrolls: stored.Scrolls,
		usageRecord: usage.record(now),
		Worker: workerAnswer{
			State: string(status.State), PID: status.PID, MemoryBytes: status.RSS,
			Starts: status.Starts, LastError: status.LastError,
		},
	}
	if quota := tenant.QuotaBytes(); quota > 0 {
		answer.QuotaUsed = round(float64(stored.StorageBytes)/float64(quota), 1e6)
	}
	if !status.StartedAt.IsZero() {
		answer.Worker.UptimeSeconds = round(now.Sub(status.StartedAt).Seconds(), 1e3)
	}
	return answer, nil
}

// round keeps what a person reads: scale is 10 to the number of decimals.
func round(x, scale float64) float64 { return math.Round(x*scale) / scale }

type healthAnswer struct {
	Status string `json:"status"` // ok, or degraded: see the rest for what is wrong
	Config struct {
		Path      string    `json:"path"`
		LoadedAt  time.Time `json:"loaded_at"`
		LastError string    `json:"last_error,omitempty"` // why the file on disk is not in force
		Tenants   int       `json:"tenants"`
	} `json:"config"`
	Workers map[string]int    `json:"workers"`           // how many are in each state
	Refused map[string]string `json:"refused,omitempty"` // tenants whose data directory is not taken, and why
	Sandbox *jail             `json:"sandbox"`           // around each worker
	Disk    struct {
		Path       string `json:"path"`
		TotalBytes uint64 `json:"total_bytes"`
		FreeBytes  uint64 `json:"free_bytes"`
		Error      string `json:"error,omitempty"`
	} `json:"disk"`
	UptimeSeconds float64 `json:"uptime_seconds"`
	Version       string  `json:"version"`
}

func (a *Admin) health(s *serving) any {
	var h healthAnswer
	h.Status = "ok"
	file := s.file.Status()
	h.Config.Path, h.Config.LoadedAt, h.Config.LastError, h.Config.Tenants = file.Path, file.LoadedAt.UTC(), file.LastError, file.Tenants
	if file.LastError != "" {
		h.Status = "degraded"
	}
	h.Workers = make(map[string]int)
	for _, status := range s.super.Statuses() {
		h.Workers[string(status.State)]++
		if status.State == supervisor.Broken {
			h.Status = "degraded"
		}
		if status.Refused != "" && s.file.Registry().ByID(status.Tenant) != nil {
			h.Status = "degraded"
			if h.Refused == nil {
				h.Refused = make(map[string]string)
			}
			h.Refused[status.Tenant] = status.Refused
		}
	}
	h.Sandbox = a.app.runtime.jail.Load().now(s.owners)
	h.Disk.Path = a.app.DataRoot
	var disk unix.Statfs_t
	if err := unix.Statfs(a.app.DataRoot, &disk); err != nil {
		h.Status, h.Disk.Error = "degraded", err.Error()
	} else {
		h.Disk.TotalBytes = disk.Blocks * uint64(disk.Bsize)
		h.Disk.FreeBytes = disk.Bavail * uint64(disk.Bsize)
	}
	h.UptimeSeconds = round(time.Since(a.app.runtime.began).Seconds(), 1e3)
	h.Version = wire.ProductVersion
	return h
}
