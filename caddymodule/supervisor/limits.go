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

// apply returns how many workers there may be where max are wanted, and says so
// in the log. Half of the descriptors are left to clients, and a quarter of the
// threads and the memory to all else.
func (l limits) apply(max int, logger *zap.Logger) int {
	allowed, by := max, "max_workers"
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
	if allowed < 1 {
		allowed = 1
	}
	log := logger.Info
	if allowed < max {
		log = logger.Warn
	}
	log("workers are limited", zap.Int("workers", allowed), zap.String("by", by), zap.Int("max_workers", max),
		zap.Uint64("descriptors", l.descriptors), zap.Uint64("threads", l.threads), zap.Uint64("memory", l.memory))
	return allowed
}
