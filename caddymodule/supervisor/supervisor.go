// Package supervisor keeps one worker process for each tenant that is asked
// for: it starts the worker on the first request, hands requests to it over a
// unix socket, notices its death, starts it again, and ends it when told to.
//
// It knows processes and connections. What a request means is the gateway's
// affair and what the data is the worker's; the contract with the worker's
// process is package wire.
//
// A worker process is a generation of its tenant. A generation is starting,
// then ready, then draining, each at most once; the next one starts only when
// the process of the one before is gone, so a tenant's data has one owner.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

// Config is what a [Supervisor] is made of.
type Config struct {
	// Worker is the path of the sq-worker binary. Required.
	Worker string

	// RunDir is the directory of the workers' sockets, TENANT.sock each. It
	// is created with mode 0700, and refused if it exists and others than its
	// owner may enter it. One edge at a time may use it. Required.
	RunDir string

	// Logger receives the supervisor's lines and those of the workers, all
	// with the field tenant. Default: none.
	Logger *zap.Logger

	// StartTimeout is how long a worker may take until it is ready; it is
	// killed after that. Default: 15 s.
	StartTimeout time.Duration

	// DrainTimeout is how long a worker may take to end once told to,
	// requests in flight and checkpoints included; it is killed after that.
	// Default: 20 s.
	DrainTimeout time.Duration

	// ResponseTimeout is how long a worker may take from the end of a request
	// to the beginning of its answer. Default: 60 s.
	ResponseTimeout time.Duration

	// MemoryMB is how many MiB a worker may hold documents in. Default:
	// wire.DefaultMemory.
	MemoryMB int

	// MaxStarts is how many workers may be starting at once; more wait their
	// turn. Default: twice the number of CPUs.
	MaxStarts int
}

// Spec names the worker that a request is for.
type Spec struct {
	Tenant  string
	DataDir string // absolute; must exist
}

// Supervisor runs the workers. Its methods are safe for concurrent use.
type Supervisor struct {
	cfg     atomic.Pointer[Config]
	logger  *zap.Logger
	metrics *metrics
	tenants sync.Map      // of tenant id to *tenant; entries stay
	slots   chan struct{} // a token for each start under way
	closing atomic.Bool
}

// New checks cfg and creates the run directory. It starts no process.
func New(cfg Config) (*Supervisor, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	setDefault(&cfg.MaxStarts, 2*runtime.NumCPU())
	s := &Supervisor{logger: cfg.Logger, metrics: newMetrics(), slots: make(chan struct{}, cfg.MaxStarts)}
	if err := s.Update(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// Update checks cfg and puts it in force without ending a worker: its binary,
// run directory, response timeout and memory are those of the workers started from now
// on, the other timeouts hold at once. Logger and MaxStarts stay as they were. On
// error nothing is changed.
func (s *Supervisor) Update(cfg Config) error {
	setDefault(&cfg.StartTimeout, 15*time.Second)
	setDefault(&cfg.DrainTimeout, 20*time.Second)
	setDefault(&cfg.ResponseTimeout, 60*time.Second)
	setDefault(&cfg.MemoryMB, wire.DefaultMemory)

	// Workers run in the root directory.
	var err error
	if cfg.Worker, err = filepath.Abs(cfg.Worker); err != nil {
		return fmt.Errorf("worker binary: %w", err)
	}
	if cfg.RunDir, err = filepath.Abs(cfg.RunDir); err != nil {
		return fmt.Errorf("run_dir: %w", err)
	}
	if err := prepareRunDir(cfg.RunDir); err != nil {
		return err
	}
	s.cfg.Store(&cfg)
	return nil
}

func setDefault[T time.Duration | int](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

func prepareRunDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("run_dir: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("run_dir: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("run_dir: %w", err)
	}
	// Whoever can connect to a worker's socket owns that tenant's data.
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("run_dir %s: is %v, want a directory that only its owner may enter: chmod 0700 it, or name another", dir, info.Mode())
	}
	return nil
}

// tenant returns the tenant's entry and makes it where there is none.
func (s *Supervisor) tenant(id string) *tenant {
	if t, ok := s.tenants.Load(id); ok {
		return t.(*tenant)
	}
	t, _ := s.tenants.LoadOrStore(id, &tenant{id: id, logger: s.logger.With(zap.String("tenant", id))})
	return t.(*tenant)
}

// Stop tells the tenant's worker to finish its requests, write its checkpoints
// and exit, and waits until it is gone or ctx is done; the worker goes in
// either case, by force after [Config.DrainTimeout]. Requests that arrive
// meanwhile wait and then start the next worker. It is no error if there is
// no worker.
func (s *Supervisor) Stop(ctx context.Context, id string) error {
	v, ok := s.tenants.Load(id)
	if !ok {
		return nil
	}
	g := v.(*tenant).askDrain("stop")
	if g == nil {
		return nil
	}
	select {
	case <-g.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the worker of tenant %s to end: %w", id, context.Cause(ctx))
	}
}

// Close ends all workers at once, as Stop does, and starts no more: requests
// are answered with [ErrUnavailable]. What has not ended after
// [Config.DrainTimeout], or when ctx is done, is killed. The error names
// a process that even outlived that.
func (s *Supervisor) Close(ctx context.Context) error {
	s.closing.Store(true)
	var live []*generation
	for _, v := range s.tenants.Range {
		if g := v.(*tenant).askDrain("shutdown"); g != nil {
			live = append(live, g)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Load().DrainTimeout)
	defer cancel()
	for _, g := range live {
		select {
		case <-g.exited:
		case <-ctx.Done():
			g.kill()
		}
	}
	// A killed process is gone in no time unless the kernel holds it.
	const reapTimeout = 5 * time.Second
	reap := time.After(reapTimeout)
	for _, g := range live {
		select {
		case <-g.exited:
		case <-reap:
			return fmt.Errorf("worker of tenant %s, process %d, still exists %v after SIGKILL", g.tenant.id, g.pid(), reapTimeout)
		}
	}
	return nil
}
