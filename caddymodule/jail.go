package caddymodule

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/wire"
)

// jail is what surrounds the workers on this machine.
type jail struct {
	Mode    wire.Sandbox       `json:"mode"`
	Parts   []wire.SandboxPart `json:"parts"`             // none where the mode is off
	Missing string             `json:"missing,omitempty"` // which parts are not there, and why
}

// probeJail finds out what surrounds the workers under a's options. Under the
// strict sandbox anything missing is an error.
func probeJail(a *App) (*jail, error) {
	j := &jail{Mode: a.Sandbox, Parts: []wire.SandboxPart{}}
	if a.Sandbox == wire.SandboxOff {
		return j, nil
	}
	if parts, err := supervisor.ProbeSandbox(a.Worker); err != nil {
		j.Missing = err.Error()
	} else {
		j.Parts, j.Missing = parts, wire.MissingSandbox(parts)
	}
	if a.Sandbox == wire.SandboxStrict && j.Missing != "" {
		return nil, fmt.Errorf("sq: sandbox strict: this machine does not have all of a worker's jail (%s): give it what is missing, or set sandbox default", j.Missing)
	}
	return j, nil
}

// log says what is missing.
func (j *jail) log(logger *zap.Logger) {
	switch {
	case j.Mode == wire.SandboxOff:
		logger.Warn("workers run without a jail, as sandbox off says: one that runs foreign code reaches all that the edge does")
	case j.Missing != "":
		logger.Warn("workers run without a part of their jail, which this machine does not have", zap.String("missing", j.Missing))
	}
}
