package supervisor

import (
	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

// What a worker needs, so that a machine's limits tell how many there may be.
const (
	// workerDescriptors are those of the edge: a lifeline, a pipe for the
	// worker's log, two handles of the process, and some connections.
	workerDescriptors = 8

	workerThreads = 10      // the Go runtime's of an active worker, measured 5 to 9
	workerMemory  = 2 << 20 // bytes, private; measured 1.3 MB
)

// memoryMax is the bytes of memory that the group of a worker may have that holds
// documents in memoryMB: what a worker promises to stay below, half as much again
// as the documents take and 32 MiB, with room for the largest text in its request,
// its record and its answer, and for the cache of the files it reads. It is for
// those that went wrong: the kernel ends who needs more.
func memoryMax(memoryMB int) int64 { return 2*int64(memoryMB)<<20 + 3*wire.MaxText }

// limits are what the system allows this process, or all of them, when the
// supervisor is made; 0 where it is not known.
type limits struct {
	descriptors uint64 // of the edge: RLIMIT_NOFILE
	threads     uint64 // of all workers: the least of RLIMIT_NPROC, threads-max, pid_max and the cgroup's pids.max
	memory      uint64 // bytes that are free, for the machine and the cgroup
}

// apply returns how many workers there may be where max are wanted, beside how many
// spares where some are, and says so in the log. Half of the descriptors are left to
// clients, and a quarter of the threads and the memory to all else. A spare takes
// what a worker does: they get at most a quarter of the places.
func (l limits) apply(maxWorkers, maxSpares int, logger *zap.Logger) (workers, spares int) {
	spares = min(maxSpares, maxWorkers)
	allowed, by := maxWorkers+spares, "max_workers"
	for _, limit := range []struct {
		name    string
		workers uint64
		known   bool
	}{
		{"descriptors", l.descriptors / 2 / workerDescriptors, l.descriptors > 0},
		{"threads", l.threads / 4 * 3 / workerThreads, l.threads > 0},
		{"memory", l.memory / 4 * 3 / workerMemory, l.memory > 0},
	} {
		if limit.known && limit.workers < uint64(allowed) {
			allowed, by = int(limit.workers), limit.name
		}
	}
	if by != "max_workers" {
		spares = min(spares, allowed/4)
	}
	workers = max(1, min(maxWorkers, allowed-spares))
	log := logger.Warn
	if workers == maxWorkers {
		log, by = logger.Info, "max_workers"
	}
	log("workers are limited", zap.Int("workers", workers), zap.String("by", by), zap.Int("max_workers", maxWorkers), zap.Int("spares", spares),
		zap.Uint64("descriptors", l.descriptors), zap.Uint64("threads", l.threads), zap.Uint64("memory", l.memory))
	return workers, spares
}
