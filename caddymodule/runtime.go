package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/cgroup"
	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

// runtimes holds the one runtime of the process for as long as a config uses it,
// so that a config reload finds the workers of the config before it.
var runtimes = caddy.NewUsagePool()

// runtime is what outlives a config reload: the watched registry, the workers
// and the counters.
type runtime struct {
	logger  *zap.Logger
	metrics *metrics
	usage   *usageBook
	began   time.Time

	shedder  shedder
	failures failures

	mu      sync.Mutex // guards what follows, but for reading serving
	started []*App     // the apps of running configs, the newest last: two during a reload
	inForce *App       // whose options serving has
	serving atomic.Pointer[serving]
	jail    atomic.Pointer[jail]
	groups  *cgroup.Tree      // nil where none was delegated
	grouped *wire.SandboxPart // what became of them; nil as long as nobody looked
	up      chan struct{}     // closed once it serves for the first time

	transitions chan supervisor.Transition // to be emitted as events
	emitter     atomic.Pointer[App]        // that of the newest config that has started
	emitting    chan struct{}              // closed once there is an emitter

	background sync.WaitGroup
	cancel     context.CancelFunc // ends the keeping of counters
}

// serving is what a started runtime has.
type serving struct {
	file    *tenants.File
	owners  *owners.Book // beside file
	super   *supervisor.Supervisor
	unwatch context.CancelFunc // ends the watch of file
}

func acquireRuntime() (*runtime, error) {
	value, _, err := runtimes.LoadOrNew("sq", func() (caddy.Destructor, error) {
		// The logger must not belong to one config: its outputs close with it.
		rt := &runtime{
			logger: caddy.Log().Named("sq"), usage: new(usageBook), began: time.Now(),
			up:          make(chan struct{}),
			transitions: make(chan supervisor.Transition, maxTransitions),
			emitting:    make(chan struct{}),
		}
		rt.failures.seed = maphash.MakeSeed()
		rt.metrics = newMetrics(rt)
		return rt, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*runtime), nil
}

// start puts a's options in force.
func (rt *runtime) start(a *App) error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if err := rt.use(a); err != nil {
		return err
	}
	rt.started = append(rt.started, a)
	return nil
}

// release says that a's config is no more. After a reload that failed once a
// was started, the config before it is in force again.
func (rt *runtime) release(a *App) error {
	rt.mu.Lock()
	rt.started = slices.DeleteFunc(rt.started, func(b *App) bool { return a == b })
	if n := len(rt.started); n > 0 && rt.inForce == a {
		if err := rt.use(rt.started[n-1]); err != nil {
			rt.logger.Error("going back to the options before a failed reload", zap.Error(err))
		}
		rt.emitter.Store(rt.started[n-1])
	}
	rt.mu.Unlock()
	_, err := runtimes.Delete("sq")
	return err
}

// use makes what serves, or changes it to a's options without ending a worker.
// On error nothing is changed. The caller holds rt.mu.
func (rt *runtime) use(a *App) error {
	if info, err := os.Stat(a.Worker); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		if err == nil {
			err = errors.New("not an executable file")
		}
		return fmt.Errorf("sq: worker binary %s: %w: build it with ./xcaddy.sh build, or set SQ_WORKER", a.Worker, err)
	}
	was := rt.serving.Load()
	var file *tenants.File
	var book *owners.Book
	var err error
	if was != nil && rt.inForce.Config == a.Config {
		file, book = was.file, was.owners
	} else if file, book, err = openTenants(a.Config); err != nil {
		return err
	}
	defer func() {
		if s := rt.serving.Load(); s == nil || s.owners != book {
			book.Close()
		}
	}()
	jail, err := rt.probeJail(a, book)
	if err != nil {
		return err
	}
	cfg := supervisor.Config{
		Worker:          a.Worker,
		Sandbox:         a.Sandbox,
		RunDir:          a.RunDir,
		Owners:          book,
		Groups:          rt.groups,
		UIDs:            jail.uids,
		Logger:          rt.logger.Named("worker"),
		StartTimeout:    time.Duration(a.StartTimeout),
		ResponseTimeout: time.Duration(a.ResponseTimeout),
		DrainTimeout:    time.Duration(a.DrainTimeout),
		MemoryMB:        a.MemoryMB,
		IdleTimeout:     time.Duration(*a.IdleTimeout),
		MaxStarts:       a.MaxStarts,
		MaxWorkers:      a.MaxWorkers,
		SpareWorkers:    *a.SpareWorkers,
		MaxQueue:        a.MaxQueue,
		QueueTimeout:    time.Duration(a.QueueTimeout),
		OnTransition:    rt.transition,
	}
	if was != nil {
		err = was.super.Update(cfg)
	} else {
		was = new(serving)
		was.super, err = supervisor.New(cfg)
	}
	if err != nil {
		return fmt.Errorf("sq: %w", err)
	}
	if rt.inForce == nil {
		if err := rt.usage.open(a.DataRoot); err != nil {
			rt.logger.Error("reading the call counters; they start from zero", zap.Error(err))
		}
		var ctx context.Context
		ctx, rt.cancel = context.WithCancel(context.Background())
		rt.background.Go(func() { rt.usage.run(ctx, rt.logger) })
		rt.background.Go(func() { rt.emitTransitions(ctx) })
	}
	rt.usage.moveTo(a.DataRoot)
	rt.inForce = a
	if before := rt.jail.Swap(jail); before == nil || before.Mode != jail.Mode || before.Missing != jail.Missing {
		jail.log(rt.logger)
	}
	if file == was.file {
		return nil
	}

	ctx, cancel := context.WithCancel(context.Background())
	// Stored before the watch begins, whose callbacks use it.
	rt.serving.Store(&serving{file: file, owners: book, super: was.super, unwatch: cancel})
	if was.file == nil {
		close(rt.up)
	} else {
		was.unwatch()
		was.owners.Close()
		rt.tenantsChanged(was.file.Registry(), file.Registry())
	}
	rt.metrics.reloaded(nil)
	if err := file.Watch(ctx, rt.tenantsChanged, rt.tenantsRejected); err != nil {
		rt.logger.Error("watching tenants.json failed; edits by hand need a restart of the edge", zap.Error(err))
	}
	rt.logger.Info("serving tenants", zap.String("config", a.Config), zap.Int("tenants", len(file.Registry().Tenants())))
	return nil
}

// openTenants reads tenants.json and what is kept of its tenants' directories.
func openTenants(config string) (*tenants.File, *owners.Book, error) {
	file, err := tenants.Open(config)
	if err != nil {
		return nil, nil, fmt.Errorf("sq: loading the tenants: %w", err)
	}
	book, err := owners.Open(tenants.OwnersPath(config), func(id string) bool { return file.Registry().ByID(id) != nil })
	if err != nil {
		return nil, nil, fmt.Errorf("sq: loading the ids of the tenants' data directories: %w", err)
	}
	return file, book, nil
}

// upTimeout is how long a request waits for the service to start.
const upTimeout = 5 * time.Second

// await returns what serves, or nil. Caddy starts its apps in any order, so that
// the first requests may come before the runtime is up; those wait for it.
func (rt *runtime) await(ctx context.Context) *serving {
	if s := rt.serving.Load(); s != nil {
		return s
	}
	timer := time.NewTimer(upTimeout)
	defer timer.Stop()
	select {
	case <-rt.up:
	case <-timer.C:
	case <-ctx.Done():
	}
	return rt.serving.Load()
}

// tenantsChanged ends the workers of tenants that may no longer be served, or
// not from where they are or with the memory that they have, and gives others
// their new weight. Requests of theirs that run get the drain timeout.
// It is called under the file's lock and so must not wait for them.
func (rt *runtime) tenantsChanged(old, new *tenants.Registry) {
	rt.metrics.reloaded(nil)
	began, serving := time.Now(), rt.serving.Load()
	super := serving.super
	for _, was := range old.Tenants() {
		id, is := was.ID, new.ByID(was.ID)
		switch {
		case is == nil || was.Enabled && !is.Enabled:
			rt.background.Go(func() {
				if err := rt.drainTenant(context.Background(), id); err != nil {
					rt.logger.Warn("ending the worker of a tenant that is not served any more", zap.String("tenant", id), zap.Error(err))
				} else if is == nil {
					rt.usage.forget(id)
					rt.metrics.workers.forget(id)
					rt.forgetOwner(id)
				}
			})
		case is.DataDir != was.DataDir || is.Limits.MemoryMB != was.Limits.MemoryMB:
			rt.background.Go(func() { super.Stop(context.Background(), id) })
		case is.Limits.CPUWeight != was.Limits.CPUWeight:
			super.Weigh(id, workerSpec(is).CPUWeight)
		}
	}
	rt.logger.Info("tenants.json is in force", zap.Int("tenants", len(new.Tenants())), zap.Duration("took", serving.file.Status().Took+time.Since(began)))
}

// forgetOwner drops what is known of the data directory of a tenant that is one
// no more, so that another of its name may have a new one.
func (rt *runtime) forgetOwner(id string) {
	s := rt.serving.Load()
	if s == nil {
		return
	}
	if err := s.owners.Forget(id, func() bool { return s.file.Registry().ByID(id) == nil }); err != nil {
		rt.logger.Error("forgetting the data directory of a tenant that was removed", zap.String("tenant", id), zap.Error(err))
	}
}

// errServedAgain ends the draining of a tenant that came back meanwhile.
var errServedAgain = errors.New("the tenant is served again")

// stopAgainAfter is how long requests that were let in before their tenant went
// may use the worker that they started after it.
const stopAgainAfter = 10 * time.Second

// drainTenant ends the worker of a tenant that is served no more. A request that
// was let in before may start a worker once more, which ends when the last of
// them has left; ending it at once could keep them from ever being served.
func (rt *runtime) drainTenant(ctx context.Context, id string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	inflight := &rt.usage.of(id).inflight
	for {
		s := rt.serving.Load()
		if s == nil {
			return nil // all workers end
		}
		if t := s.file.Registry().ByID(id); t != nil && t.Enabled {
			return errServedAgain
		}
		last := inflight.Load() == 0 // and none can be let in any more
		if err := s.super.Stop(ctx, id); err != nil || last {
			return err
		}
		for again := time.Now().Add(stopAgainAfter); inflight.Load() > 0 && rt.serving.Load() != nil && time.Now().Before(again); {
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting for the requests of %s to end: %w", id, ctx.Err())
			case <-tick.C:
			}
		}
	}
}

func (rt *runtime) tenantsRejected(err error) {
	rt.metrics.reloaded(err)
	rt.logger.Error("tenants.json is bad; the last good one stays in force", zap.Error(err))
}

// Destruct ends the workers. Caddy calls it when the last config that used the
// runtime is cleaned up: at exit, or after a reload that took the app out.
func (rt *runtime) Destruct() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	s := rt.serving.Swap(nil)
	if s == nil {
		return nil
	}
	s.unwatch()
	rt.cancel()
	// The supervisor bounds the drain itself; the context is a backstop.
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rt.inForce.DrainTimeout)+5*time.Second)
	defer cancel()
	err := s.super.Close(ctx)
	rt.background.Wait()
	return errors.Join(err, s.owners.Close(), rt.usage.save())
}

// checkTenants reports what caddy validate can see of a tenants file. One that
// is not there yet is no fault of the config.
func checkTenants(path string) error {
	if _, err := tenants.Open(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sq: %w", err)
	}
	return nil
}
