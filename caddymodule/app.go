// Package caddymodule is the edge: a Caddy app that keeps the tenants' registry
// and their workers, and the HTTP handlers that authenticate a request, rewrite
// it for its tenant and hand it to that tenant's worker.
package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

func init() {
	caddy.RegisterModule(App{})
}

// App is the Caddy app named sq. It holds the tenants' registry and supervises
// one worker process for each tenant that has been asked for. Both outlive a
// config reload, whatever it changes.
type App struct {
	// Config is the path of tenants.json. It is watched: a change is in force
	// within a second, and a bad file leaves the last good one in force.
	// Default: the environment variable SQ_CONFIG, else /etc/sq/tenants.json.
	Config string `json:"config,omitempty"`

	// DataRoot is the directory in which the admin API creates the data
	// directories of new tenants, and in which it archives those of deleted
	// ones, under .archive. Tenants in the file may live elsewhere.
	// Default: SQ_DATA_ROOT, else /var/lib/sq/tenants.
	DataRoot string `json:"data_root,omitempty"`

	// RunDir is the directory of the workers' unix sockets. It is created
	// with mode 0700, and refused while another edge uses it. Keep it short: a
	// socket's whole path has at most 107 bytes. Default: SQ_RUN_DIR, else
	// /run/sq.
	RunDir string `json:"run_dir,omitempty"`

	// Worker is the path of the sq-worker binary. Default: SQ_WORKER, else
	// sq-worker in the directory of the caddy binary.
	Worker string `json:"worker,omitempty"`

	// Sandbox is the jail that a worker builds around itself before it opens
	// its tenant's data: "strict" refuses to serve unless the machine has all
	// of it, "default" takes what there is and says what is missing in the log
	// and in the admin API's health, "off" is for debugging. It holds for the
	// workers that start from now on. Default: "default".
	Sandbox wire.Sandbox `json:"sandbox,omitempty"`

	// WorkerUIDs are the users that workers run as, such as "200000-265535": each
	// tenant has one of its own, in the group of the same number, for as long as
	// it is a tenant, and its data directory belongs to that. No account of the
	// machine may be among them. The edge must be root or have CAP_SETUID,
	// CAP_SETGID, CAP_CHOWN and CAP_KILL; where it does not, workers run as the
	// edge's user, and under the strict sandbox it does not serve.
	// Default: none, and workers run as the edge's user.
	WorkerUIDs string `json:"worker_uids,omitempty"`

	// MaxScroll is the largest text of one request in bytes; a larger one is
	// answered 413. Default: 16 MiB.
	MaxScroll int64 `json:"max_scroll,omitempty"`

	// MaxDocument is the largest document in bytes that may be put whole with
	// PUT documents/{p}; a larger one is answered 413. Default: 1 GiB.
	MaxDocument int64 `json:"max_document,omitempty"`

	// MemoryMB is how many MiB each worker may hold documents in: indexes,
	// small documents and changes that are not in the files yet. Beyond it a
	// worker closes documents, least recently used first, and writes
	// checkpoints early. Its process takes half as much again and up to 32 MiB
	// more; large documents are mapped, which counts as the system's cache.
	// Default: 64.
	MemoryMB int `json:"memory_mb,omitempty"`

	// CORSOrigins are the web origins whose pages may use the API, such as
	// https://app.example.com. Default: every origin, as "*".
	CORSOrigins []string `json:"cors_origins,omitempty"`

	// Limits hold for every tenant whose entry in tenants.json has none of the
	// same name. Default: none. Of the texts' sizes and the worker's memory,
	// the options above are the defaults.
	Limits tenants.Limits `json:"limits,omitzero"`

	// MaxInFlight is what the requests that wait for the beginning of an answer
	// may cost, a read 16 and a write 1, until those of tenants with more than
	// their share wait in line, for a second at most. Default: 32 for each CPU,
	// which is two reads.
	MaxInFlight int64 `json:"max_in_flight,omitempty"`

	// StartTimeout is how long a worker may take until it serves; it is
	// killed after that and its requests are answered 503. Default: 15s.
	StartTimeout caddy.Duration `json:"start_timeout,omitempty"`

	// ResponseTimeout is how long a worker may take until the first byte of
	// its answer; the request is answered 504 after that. Default: 60s.
	ResponseTimeout caddy.Duration `json:"response_timeout,omitempty"`

	// DrainTimeout is how long a worker may take to finish its requests and
	// write its checkpoints when it is told to go; it is killed after that,
	// which loses nothing that was acknowledged. Default: 20s.
	DrainTimeout caddy.Duration `json:"drain_timeout,omitempty"`

	// IdleTimeout is how long a worker may be without a request until it is
	// parked: it writes its checkpoints and exits, and the next request starts
	// another. 0 means never. Default: 5m.
	IdleTimeout *caddy.Duration `json:"idle_timeout,omitempty"`

	// MaxStarts is how many workers may be starting at once; more wait in
	// line. Default: twice the number of CPUs.
	MaxStarts int `json:"max_starts,omitempty"`

	// MaxWorkers is how many workers there may be. Beyond it the one that was
	// idle the longest is parked to make room. Fewer are allowed where the
	// system's limits on descriptors, threads or memory do not suffice; the
	// log says so. Default: 1000.
	MaxWorkers int `json:"max_workers,omitempty"`

	// SpareWorkers is how many worker processes are started ahead and wait for a
	// tenant, so that one that sleeps is served sooner. Each takes some 1 MB. There
	// are fewer where that would be more than MaxWorkers or than a quarter of what
	// the system's limits allow, and none with WorkerUIDs, or where each worker begins in a
	// cgroup of its own, into which it would take longer to move one. 0 means none.
	// Default: 16.
	SpareWorkers *int `json:"spare_workers,omitempty"`

	// MaxQueue is how many tenants' workers may wait for their turn to start;
	// requests for more are answered 503. Default: 10000.
	MaxQueue int `json:"max_queue,omitempty"`

	// QueueTimeout is how long a start may wait for its turn; its requests
	// are answered 503 after that, each with a Retry-After of up to as long.
	// Default: 10s.
	QueueTimeout caddy.Duration `json:"queue_timeout,omitempty"`

	runtime *runtime
	logger  *zap.Logger
	strict  map[*caddyhttp.Server]bool // that have the listener wrapper sq, or have been found to lack it
	ctx     caddy.Context
	events  *caddyevents.App
	door    *door
	limits  tenants.Limits // the defaults, max_scroll and max_document among them
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sq",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision fills in the defaults and takes hold of the runtime, which it shares
// with the config in force. It starts nothing, since caddy validate provisions
// too.
func (a *App) Provision(ctx caddy.Context) error {
	a.strict = make(map[*caddyhttp.Server]bool)
	a.ctx, a.logger = ctx, ctx.Logger()
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("sq: finding the events app: %w", err)
	}
	a.events, a.door = events.(*caddyevents.App), newDoor()
	if err := errors.Join(a.events.On("started", a.door), a.events.On("stopping", a.door), a.events.On("started", emitter{a})); err != nil {
		return fmt.Errorf("sq: %w", err)
	}
	setDefault(&a.Config, "SQ_CONFIG", "/etc/sq/tenants.json")
	setDefault(&a.DataRoot, "SQ_DATA_ROOT", "/var/lib/sq/tenants")
	setDefault(&a.RunDir, "SQ_RUN_DIR", "/run/sq")
	setDefault(&a.Worker, "SQ_WORKER", besideExecutable("sq-worker"))
	if a.Sandbox == "" {
		a.Sandbox = wire.SandboxDefault
	}
	if a.MaxScroll == 0 {
		a.MaxScroll = 16 << 20
	}
	if a.MaxDocument == 0 {
		a.MaxDocument = 1 << 30
	}
	if a.MemoryMB == 0 {
		a.MemoryMB = wire.DefaultMemory
	}
	a.limits = a.Limits
	a.limits.MaxScroll, a.limits.MaxDocument = a.MaxScroll, a.MaxDocument
	if a.MaxInFlight == 0 {
		a.MaxInFlight = defaultMaxInFlight()
	}
	if a.StartTimeout == 0 {
		a.StartTimeout = caddy.Duration(15 * time.Second)
	}
	if a.ResponseTimeout == 0 {
		a.ResponseTimeout = caddy.Duration(60 * time.Second)
	}
	if a.DrainTimeout == 0 {
		a.DrainTimeout = caddy.Duration(20 * time.Second)
	}
	if a.IdleTimeout == nil {
		idle := caddy.Duration(5 * time.Minute)
		a.IdleTimeout = &idle
	}
	if a.SpareWorkers == nil {
		spares := 16
		a.SpareWorkers = &spares
	}
	for name, path := range map[string]*string{"config": &a.Config, "data_root": &a.DataRoot, "run_dir": &a.RunDir, "worker": &a.Worker} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("sq: %s %q: %w", name, *path, err)
		}
		*path = abs
	}

	rt, err := acquireRuntime()
	if err != nil {
		return err
	}
	a.runtime = rt
	if rt.serving.Load() == nil { // else a bad file leaves the last good one in force
		if err := checkTenants(a.Config); err != nil {
			return err
		}
	}
	return rt.metrics.register(ctx.GetMetricsRegistry())
}

// Validate refuses options that could never work.
func (a *App) Validate() error {
	for _, option := range []struct {
		name  string
		value int64
	}{
		{"max_scroll", a.MaxScroll},
		{"max_document", a.MaxDocument},
		{"max_in_flight", a.MaxInFlight},
		{"start_timeout", int64(a.StartTimeout)},
		{"response_timeout", int64(a.ResponseTimeout)},
		{"drain_timeout", int64(a.DrainTimeout)},
		{"idle_timeout", int64(*a.IdleTimeout)},
		{"max_starts", int64(a.MaxStarts)},
		{"max_workers", int64(a.MaxWorkers)},
		{"spare_workers", int64(*a.SpareWorkers)},
		{"max_queue", int64(a.MaxQueue)},
		{"queue_timeout", int64(a.QueueTimeout)},
	} {
		if option.value < 0 {
			return fmt.Errorf("sq: %s is negative", option.name)
		}
	}
	if a.MaxScroll > wire.MaxText || a.MaxDocument > wire.MaxDocument {
		return fmt.Errorf("sq: max_scroll may be at most %d and max_document at most %d bytes, which is what a worker takes", wire.MaxText, wire.MaxDocument)
	}
	if err := checkMemory(a.MemoryMB); err != nil {
		return fmt.Errorf("sq: memory_mb: %w", err)
	}
	if _, err := wire.ParseSandbox(string(a.Sandbox)); err != nil {
		return fmt.Errorf("sq: sandbox: %w", err)
	}
	if _, err := a.workerUIDs(); err != nil {
		return fmt.Errorf("sq: worker_uids: %w", err)
	}
	if err := a.checkLimits(); err != nil {
		return fmt.Errorf("sq: limits: %w", err)
	}
	for _, origin := range a.CORSOrigins {
		if err := checkOrigin(origin); err != nil {
			return fmt.Errorf("sq: cors_origin: %w", err)
		}
	}
	return nil
}

// workerUIDs returns the range that WorkerUIDs names.
func (a *App) workerUIDs() (owners.Range, error) {
	if a.WorkerUIDs == "" {
		return owners.Range{}, nil
	}
	return owners.ParseRange(a.WorkerUIDs)
}

func (a *App) checkLimits() error {
	if a.Limits.MaxScroll != 0 || a.Limits.MaxDocument != 0 || a.Limits.MemoryMB != 0 {
		return errors.New("the defaults of max_scroll_bytes, max_document_bytes and memory_mb are the options max_scroll, max_document and memory_mb")
	}
	if a.Limits.CPUWeight != 0 {
		return errors.New("cpu_weight is a tenant's weight against the others: it has no default")
	}
	return a.Limits.Check()
}

// Start loads tenants.json, begins to watch it and makes the supervisor ready.
// No tenant's worker starts before its first request; spare ones do.
func (a *App) Start() error {
	keepHeap()
	return a.runtime.start(a)
}

// Stop does nothing: the workers hang on the runtime, which ends when no config
// uses it any more.
func (a *App) Stop() error { return nil }

// Cleanup lets go of the runtime. Caddy calls it where Provision failed, too.
func (a *App) Cleanup() error {
	if a.runtime == nil {
		return nil
	}
	return a.runtime.release(a)
}

func checkMemory(mb int) error {
	if mb < wire.MinMemory || mb > wire.MaxMemory {
		return fmt.Errorf("%d is not from %d to %d MiB", mb, wire.MinMemory, wire.MaxMemory)
	}
	return nil
}

func setDefault(value *string, env, fallback string) {
	if *value == "" {
		*value = os.Getenv(env)
	}
	if *value == "" {
		*value = fallback
	}
}

// besideExecutable returns the path of name in this program's own directory.
func besideExecutable(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name // looked up in the working directory, and named in the error if it is not there
	}
	return filepath.Join(filepath.Dir(self), name)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
