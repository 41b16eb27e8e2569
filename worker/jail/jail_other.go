//go:build !linux

package jail

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/wire"
)

// Enter forbids core files. There is no jail but on Linux.
func Enter(mode wire.Sandbox, _ Bounds) ([]wire.SandboxPart, error) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return nil, fmt.Errorf("setting RLIMIT_CORE to 0: %w", err)
	}
	parts := []wire.SandboxPart{{Name: "jail", Missing: "only Linux has it"}}
	if mode == wire.SandboxStrict {
		return parts, refuse(parts)
	}
	return parts, nil
}
