//go:build !linux

package jail

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/wire"
)

// Cell is no jail, which there is only on Linux.
type Cell struct{ mode wire.Sandbox }

// Begin does nothing.
func Begin(mode wire.Sandbox) (*Cell, error) { return &Cell{mode}, nil }

// Enter forbids core files.
func (c *Cell) Enter(Bounds) ([]wire.SandboxPart, error) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return nil, fmt.Errorf("setting RLIMIT_CORE to 0: %w", err)
	}
	parts := []wire.SandboxPart{{Name: "jail", Missing: "only Linux has it"}}
	if c.mode == wire.SandboxStrict {
		return parts, refuse(parts)
	}
	return parts, nil
}
