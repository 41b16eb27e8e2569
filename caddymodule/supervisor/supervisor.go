// Package supervisor keeps one worker process for each tenant that is asked
// for: it starts the worker on the first request, hands requests to it over a
// unix socket, notices its death, starts it again, and ends it when told to.
//
// It knows processes and connections. What a request means is the gateway's
// affair and what the data is the worker's; the contract with the worker's
// process is package wire.
//
// A worker process is a generation of its tenant, started for it or taken from the
// spares. A generation is starting,
// then ready, then draining, each at most once; the next one starts only when
// the process of the one before is gone, so a tenant's data has one owner.
package supervisor

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/cgroup"
	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/wire"
)

// Config is what a [Supervisor] is made of.
type Config struct {
	// Worker is the path of the sq-worker binary. Required.
	Worker string

	// RunDir is the directory of the workers' sockets, TENANT.sock each. It
	// is created with mode 0700, and refused if it exists and others than its
	// owner may enter it, or another edge uses it. Required.
	RunDir string

	// Sandbox is the jail that workers build around themselves. Default:
	// [wire.SandboxDefault].
	Sandbox wire.Sandbox

	// Owners knows the ids of the tenants' data directories: a worker refuses
	// another one. What workers report of new ones is kept in it. Default: none,
	// and each directory is taken as it is.
	Owners *owners.Book

	// Groups is where workers get cgroups of their own, which bound what no limit
	// of a process does. Default: none, and they stay in the edge's.
	Groups *cgroup.Tree

	// UIDs are the users that workers run as, one for each tenant, recorded in
	// Owners, which must be set. Default: none, and they run as the edge's.
	UIDs owners.Range

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

	// IdleTimeout is how long a worker may be without a request until it is
	// parked: it checkpoints and exits, and the next request starts another.
	// 0 means never.
	IdleTimeout time.Duration

	// MaxStarts is how many workers may be starting at once; more wait their
	// turn, first come, first served. Default: twice the number of CPUs.
	MaxStarts int

	// MaxWorkers is how many workers there may be. Beyond it the one that was
	// idle the longest is parked to make room, and where none is idle, starts
	// wait their turn. Fewer are allowed where the process's descriptors,
	// threads or memory do not suffice; a line in the log says so. Default:
	// 1,000.
	MaxWorkers int

	// SpareWorkers is how many processes are started ahead and wait for a tenant,
	// so that its start takes less: fewer where that would be more than MaxWorkers
	// or than a quarter of what the machine allows, of which MaxWorkers are the
	// rest, and none with UIDs, or with Groups in which a process can begin: moving
	// it there would take longer than starting it. 0 means none.
	SpareWorkers int

	// MaxQueue is how many tenants' workers may wait for their turn to start;
	// requests for more are refused. Each costs some 70 KiB, measured with the
	// request that waits and its client's connection, so that the default,
	// 10,000, bounds that to 700 MiB or so; it is more than any machine starts
	// in QueueTimeout, which therefore decides until then.
	MaxQueue int

	// QueueTimeout is how long a start may wait for its turn; its requests
	// are refused after that. Default: 10 s.
	QueueTimeout time.Duration

	// OnTransition, if set, is told of each change of a worker's state: in
	// order for each tenant, from the goroutine that owns the worker, which it
	// must not hold up.
	OnTransition func(Transition)

	// Clock is what timeouts, backoffs and durations go by; the deadlines of
	// I/O go by the system's. Default: the system's.
	Clock clockwork.Clock
}

// Spec names the worker that a request is for.
type Spec struct {
	Tenant  string
	DataDir string // absolute; must exist

	MemoryMB  int // instead of the Config's, unless 0
	CPUWeight int // of the worker's cgroup, as cgroup v2's cpu.weight; 0 for what is usual
}

// sameWorker reports whether a worker that runs for s serves o, too. Its weight is
// changed while it runs.
func (s Spec) sameWorker(o Spec) bool {
	o.CPUWeight = s.CPUWeight
	return s == o
}

// Supervisor runs the workers. Its methods are safe for concurrent use.
type Supervisor struct {
	cfg     atomic.Pointer[Config]
	logger  *zap.Logger
	metrics *metrics
	tenants sync.Map // of tenant id to *tenant; entries stay
	clock   clockwork.Clock
	limits  limits
	starts  atomic.Pointer[startLimit]
	room    room
	spares  spares
	queued  atomic.Int64 // starts that wait for their turn
	runDirs runDirs
	noYield sync.Once // guards the line that says why workers do not
	closing atomic.Bool
	closed  chan struct{} // closed once closing is set
}

// New checks cfg and creates the run directory. It waits for no process; spare
// workers are started meanwhile.
func New(cfg Config) (*Supervisor, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Clock == nil {
		cfg.Clock = clockwork.NewRealClock()
	}
	s := &Supervisor{
		logger: cfg.Logger, clock: cfg.Clock, limits: readLimits(), closed: make(chan struct{}),
	}
	s.spares.super, s.spares.wake, s.spares.gone = s, make(chan struct{}, 1), make(chan struct{})
	s.metrics = newMetrics(&s.queued, &s.spares)
	if err := s.Update(cfg); err != nil {
		return nil, err
	}
	go s.spares.run()
	go s.balance()
	return s, nil
}

// Update checks cfg and puts it in force, at once. Workers whose binary was
// replaced or is another now, or whose run directory, sandbox or memory is, are
// rolled, as by [Supervisor.Roll]; all others stay. Logger and Clock stay as they
// were. On error nothing is changed.
func (s *Supervisor) Update(cfg Config) error {
	setDefault(&cfg.StartTimeout, 15*time.Second)
	setDefault(&cfg.DrainTimeout, 20*time.Second)
	setDefault(&cfg.ResponseTimeout, 60*time.Second)
	setDefault(&cfg.MemoryMB, wire.DefaultMemory)
	setDefault(&cfg.MaxStarts, 2*runtime.NumCPU())
	setDefault(&cfg.MaxWorkers, 1000)
	setDefault(&cfg.MaxQueue, 10_000)
	setDefault(&cfg.QueueTimeout, 10*time.Second)
	if cfg.Sandbox == "" {
		cfg.Sandbox = wire.SandboxDefault
	}

	// Workers run in the root directory.
	var err error
	if cfg.Worker, err = filepath.Abs(cfg.Worker); err != nil {
		return fmt.Errorf("worker binary: %w", err)
	}
	if cfg.RunDir, err = filepath.Abs(cfg.RunDir); err != nil {
		return fmt.Errorf("run_dir: %w", err)
	}
	if err := s.runDirs.claim(cfg.RunDir); err != nil {
		return fmt.Errorf("run_dir %s: %w", cfg.RunDir, err)
	}
	was := s.cfg.Swap(&cfg)
	if was == nil || was.MaxStarts != cfg.MaxStarts {
		s.starts.Store(newStartLimit(cfg.MaxStarts))
	}
	if was == nil || was.MaxWorkers != cfg.MaxWorkers || sparesFor(was) != sparesFor(&cfg) {
		workers, spares := s.limits.apply(cfg.MaxWorkers, sparesFor(&cfg), s.logger)
		s.room.resize(workers)
		s.spares.resize(spares)
	}
	s.spares.refresh(imageOf(&cfg))
	if was != nil {
		as := launchOf(&cfg)
		s.roll(func(g *generation) bool { return g.launch != as })
	}
	if was != nil && was.IdleTimeout != cfg.IdleTimeout {
		for _, v := range s.tenants.Range {
			v.(*tenant).adjust()
		}
	}
	return nil
}

func setDefault[T time.Duration | int](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// tenant returns the tenant's entry and makes it where there is none.
func (s *Supervisor) tenant(id string) *tenant {
	if t, ok := s.tenants.Load(id); ok {
		return t.(*tenant)
	}
	t, _ := s.tenants.LoadOrStore(id, &tenant{super: s, id: id, state: Asleep})
	return t.(*tenant)
}

// Close ends all workers at once, as Stop does, and starts no more: requests
// are answered with [ErrUnavailable]. What has not ended after
// [Config.DrainTimeout], or when ctx is done, is killed. The error names
// a process that even outlived that.
func (s *Supervisor) Close(ctx context.Context) error {
	if s.closing.CompareAndSwap(false, true) {
		close(s.closed)
	}
	var live []*generation
	for _, v := range s.tenants.Range {
		if g := v.(*tenant).askDrain(reasonClosing); g != nil {
			live = append(live, g)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Load().DrainTimeout)
	defer cancel()
	defer s.runDirs.release()
	for _, g := range live {
		select {
		case <-g.over:
		case <-ctx.Done():
			g.kill()
		}
	}
	// A killed process is gone in no time unless the kernel holds it.
	const reapTimeout = 5 * time.Second
	reap := time.After(reapTimeout)
	for _, g := range live {
		select {
		case <-g.over:
		case <-reap:
			return fmt.Errorf("worker of tenant %s, process %d, still exists %v after SIGKILL", g.tenant.id, g.pid(), reapTimeout)
		}
	}
	select {
	case <-s.spares.gone:
	case <-reap:
		return fmt.Errorf("a spare worker still exists %v after SIGKILL", reapTimeout)
	}
	return nil
}
