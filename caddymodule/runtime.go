package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
)

// runtimes holds the runtime of each set of paths in use, so that a config
// reload finds the workers of the config before it.
var runtimes = caddy.NewUsagePool()

// runtime is what outlives a config reload: the watched registry, the workers
// and the counters.
type runtime struct {
	key     string
	app     App // the options it was made with; only those of runtimeKey are read
	logger  *zap.Logger
	metrics *metrics
	usage   *usageBook
	began   time.Time

	mu      sync.Mutex // serialises start and Destruct
	serving atomic.Pointer[serving]
}

// serving is what a started runtime has.
type serving struct {
	file   *tenants.File
	super  *supervisor.Supervisor
	cancel context.CancelFunc // ends the background work
	done   sync.WaitGroup     // of the background work
}

func acquireRuntime(a *App) (*runtime, error) {
	key := a.runtimeKey()
	value, _, err := runtimes.LoadOrNew(key, func() (caddy.Destructor, error) {
		// The logger must not belong to one config: its outputs close with it.
		rt := &runtime{key: key, app: *a, logger: caddy.Log().Named("sq"), usage: newUsageBook(a.DataRoot), began: time.Now()}
		rt.metrics = newMetrics(rt)
		return rt, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*runtime), nil
}

func releaseRuntime(rt *runtime) error {
	_, err := runtimes.Delete(rt.key)
	return err
}

// start is called by each config that uses the runtime; the first call works.
func (rt *runtime) start() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.serving.Load() != nil {
		return nil
	}
	file, err := tenants.Open(rt.app.Config)
	if err != nil {
		return fmt.Errorf("sq: loading the tenants: %w", err)
	}
	if info, err := os.Stat(rt.app.Worker); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		if err == nil {
			err = errors.New("not an executable file")
		}
		return fmt.Errorf("sq: worker binary %s: %w: build it with ./xcaddy.sh build, or set SQ_WORKER", rt.app.Worker, err)
	}
	if err := rt.usage.load(); err != nil {
		rt.logger.Error("reading the call counters; they start from zero", zap.Error(err))
	}
	super, err := supervisor.New(supervisor.Config{
		Worker:          rt.app.Worker,
		RunDir:          rt.app.RunDir,
		Logger:          rt.logger.Named("worker"),
		StartTimeout:    time.Duration(rt.app.StartTimeout),
		ResponseTimeout: time.Duration(rt.app.ResponseTimeout),
		DrainTimeout:    time.Duration(rt.app.DrainTimeout),
	})
	if err != nil {
		return fmt.Errorf("sq: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &serving{file: file, super: super, cancel: cancel}
	// Stored before the watch begins, whose callbacks use it.
	rt.serving.Store(s)
	rt.metrics.reloaded(nil)
	s.done.Go(func() {
		if err := file.Watch(ctx, rt.tenantsChanged, rt.tenantsRejected); err != nil && ctx.Err() == nil {
			rt.logger.Error("watching tenants.json ended; edits need a restart of the edge", zap.Error(err))
		}
	})
	s.done.Go(func() { rt.usage.run(ctx, rt.logger) })
	rt.logger.Info("serving tenants", zap.String("config", rt.app.Config), zap.Int("tenants", len(file.Registry().Tenants())))
	return nil
}

// tenantsChanged ends the workers of tenants that may no longer be served, or
// not from where they are. Requests of theirs that run get the drain timeout.
func (rt *runtime) tenantsChanged(old, new *tenants.Registry) {
	rt.metrics.reloaded(nil)
	s := rt.serving.Load()
	for _, was := range old.Tenants() {
		is := new.ByID(was.ID)
		if is != nil && is.Enabled && is.DataDir == was.DataDir {
			continue
		}
		id := was.ID
		s.done.Go(func() { s.super.Stop(context.Background(), id) })
	}
	rt.logger.Info("tenants.json is in force", zap.Int("tenants", len(new.Tenants())))
}

func (rt *runtime) tenantsRejected(err error) {
	rt.metrics.reloaded(err)
	rt.logger.Error("tenants.json is bad; the last good one stays in force", zap.Error(err))
}

// Destruct ends the workers. Caddy calls it when the last config that used the
// runtime is cleaned up: at exit, or after a reload that changed the paths.
func (rt *runtime) Destruct() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	s := rt.serving.Swap(nil)
	if s == nil {
		return nil
	}
	s.cancel()
	// The supervisor bounds the drain itself; the context is a backstop.
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rt.app.DrainTimeout)+5*time.Second)
	defer cancel()
	err := s.super.Close(ctx)
	s.done.Wait()
	return errors.Join(err, rt.usage.save())
}

// check reports what caddy validate can see of the tenants without starting
// anything. A file that is not there yet is no fault of the config.
func (rt *runtime) check() error {
	if rt.serving.Load() != nil {
		return nil
	}
	data, err := os.ReadFile(rt.app.Config)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sq: reading the tenants: %w", err)
	}
	if _, err := tenants.Parse(data); err != nil {
		return fmt.Errorf("sq: %s: %w", rt.app.Config, err)
	}
	return nil
}
