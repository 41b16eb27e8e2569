package wire

import (
	"fmt"
	"strings"
)

// Sandbox says how much of a jail a worker builds around itself before it opens
// its tenant's data.
type Sandbox string

// The sandboxes of a worker.
const (
	// SandboxDefault takes every part of the jail that the kernel has.
	SandboxDefault Sandbox = "default"
	// SandboxStrict is the whole jail or no service.
	SandboxStrict Sandbox = "strict"
	// SandboxOff is no jail; the worker still leaves no core file.
	SandboxOff Sandbox = "off"
)

// ParseSandbox reads what an operator wrote.
func ParseSandbox(s string) (Sandbox, error) {
	switch mode := Sandbox(s); mode {
	case SandboxDefault, SandboxStrict, SandboxOff:
		return mode, nil
	}
	return "", fmt.Errorf("%q is no sandbox: want strict, default or off", s)
}

// SandboxPart is one part of a worker's jail, as it stands on one machine. The
// command "sq-worker sandbox" prints a JSON array of them.
type SandboxPart struct {
	Name    string `json:"name"`              // such as "landlock"
	Applied string `json:"applied,omitempty"` // what is in force; empty where nothing is
	Missing string `json:"missing,omitempty"` // what is not, and why; empty where all of it is in force
}

// MissingSandbox says which parts are not there and why, on one line; nothing
// where all are.
func MissingSandbox(parts []SandboxPart) string {
	var missing []string
	for _, p := range parts {
		if p.Missing != "" {
			missing = append(missing, p.Name+": "+p.Missing)
		}
	}
	return strings.Join(missing, "; ")
}
