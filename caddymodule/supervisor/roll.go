package supervisor

import (
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/wire"
)

// launched is what a worker has from its start on, so that another is needed where
// it changes.
type launched struct {
	image    image
	runDir   string
	memoryMB int
	uids     owners.Range
}

// image is what a process has before it has a tenant.
type image struct {
	worker  string
	binary  identity
	sandbox wire.Sandbox
}

// identity tells a file from the one that replaces it.
type identity struct {
	device, inode uint64
	size, mtime   int64 // bytes; Unix time in nanoseconds
}

func launchOf(cfg *Config) launched {
	return launched{image: imageOf(cfg), runDir: cfg.RunDir, memoryMB: cfg.MemoryMB, uids: cfg.UIDs}
}

func imageOf(cfg *Config) image {
	i := image{worker: cfg.Worker, sandbox: cfg.Sandbox}
	// Where it is missing there is nothing better to run either.
	if info, err := os.Stat(cfg.Worker); err == nil {
		device, inode := fileID(info)
		i.binary = identity{device, inode, info.Size(), info.ModTime().UnixNano()}
	}
	return i
}

// Roll ends all workers, as Stop does, [Config.MaxStarts] at a time, so that each
// starts anew: at once if requests wait for it, else with the next one. It
// returns how many there are and does not wait for them.
func (s *Supervisor) Roll() int {
	return s.roll(func(*generation) bool { return true })
}

func (s *Supervisor) roll(old func(*generation) bool) int {
	var rolled []*generation
	for _, v := range s.tenants.Range {
		t := v.(*tenant)
		t.mu.Lock()
		// One without a process yet is about to start as all new ones do.
		if g := t.current; g != nil && g.process != nil && g.drained == "" && old(g) {
			rolled = append(rolled, g)
		}
		t.mu.Unlock()
	}
	if len(rolled) == 0 {
		return 0
	}
	limit := s.cfg.Load().MaxStarts
	go func() {
		var group errgroup.Group
		group.SetLimit(limit)
		for _, g := range rolled {
			group.Go(func() error {
				g.tenant.mu.Lock()
				g.drainLocked(reasonRoll)
				g.tenant.mu.Unlock()
				<-g.exited
				return nil
			})
		}
		group.Wait()
	}()
	return len(rolled)
}
