// Package jail locks a worker in with its tenant's data. A worker calls [Begin] when
// it starts, and Enter of what that returns once it knows its tenant, before it opens
// any data or accepts a connection. From then on, even if its tenant's bytes made
// it run foreign code, that code reaches the data directory, the connections
// that the edge made, and nothing else.
//
// The parts overlap on purpose. Landlock knows paths but neither chmod nor
// sockets bound to a path nor, before ABI 6, signals; seccomp knows calls but no
// paths; limits bound what neither of them counts. Each thread of the process is
// in the jail, and so is each one that it makes later.
package jail

import (
	"fmt"

	"github.com/sqedge/sqedge/shared/wire"
)

// Bounds are what differs from worker to worker.
type Bounds struct {
	Dir     string // the data directory, which must exist
	Memory  int64  // bytes for documents, beside [MaxMemory]
	Threads int    // of the process's user, where it is the worker's own; 0 for no bound
}

// Limits of a worker's process. What belongs to the machine (CPU), and to a user
// that others share (threads), is for the edge to bound.
const (
	// MaxFiles is how many descriptors a worker may have open: one for each
	// connection and for each request under way that reads or writes a file.
	MaxFiles = 8192

	// MaxFileSize is the longest file in bytes that a worker may write, twice
	// the largest document. It is no quota: that is counted by the engine, and
	// many files may be as long.
	MaxFileSize = 2 * wire.MaxDocument

	// MaxMemory is how much private memory in bytes a worker may have, unless
	// half of the machine's is less, and apart from twice what its documents
	// may be held in. Their files, which are mapped and shared with the page
	// cache, do not count.
	MaxMemory = 4 << 30
)

// refuse returns the error for parts of which some are missing, under the
// strict sandbox.
func refuse(parts []wire.SandboxPart) error {
	missing := wire.MissingSandbox(parts)
	if missing == "" {
		return nil
	}
	return fmt.Errorf("sandbox strict: a part of the worker's jail is missing (%s)", missing)
}
