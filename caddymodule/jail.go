package caddymodule

import (
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/caddymodule/cgroup"
	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/caddymodule/supervisor"
	"github.com/sqedge/sqedge/shared/wire"
)

// jail is what surrounds the workers on this machine.
type jail struct {
	Mode    wire.Sandbox       `json:"mode"`
	Parts   []wire.SandboxPart `json:"parts"`             // those that workers make themselves are not there where the mode is off
	Missing string             `json:"missing,omitempty"` // which parts are not there, and why

	uids owners.Range // that workers run as; none where they are not to be had
}

// probeJail finds out what surrounds the workers under a's options, which is what
// they do themselves and what the edge does for them. Under the strict sandbox
// anything missing is an error.
func (rt *runtime) probeJail(a *App, book *owners.Book) (*jail, error) {
	j := &jail{Mode: a.Sandbox, Parts: []wire.SandboxPart{}}
	if a.Sandbox != wire.SandboxOff {
		parts, err := supervisor.ProbeSandbox(a.Worker)
		if err != nil {
			parts = []wire.SandboxPart{{Name: "worker", Missing: err.Error()}}
		}
		j.Parts = append(j.Parts, parts...)
	}
	j.Parts = append(j.Parts, rt.groupPart(a.Worker), identityPart(book))
	if err := j.probeUIDs(a, book); err != nil {
		return nil, err
	}
	j.Missing = wire.MissingSandbox(j.Parts)
	if a.Sandbox == wire.SandboxStrict && j.Missing != "" {
		return nil, fmt.Errorf("sq: sandbox strict: this machine does not have all of a worker's jail (%s): give it what is missing, or set sandbox default", j.Missing)
	}
	return j, nil
}

// groupPart arranges the workers' cgroups, once, and says what there is of them.
func (rt *runtime) groupPart(worker string) wire.SandboxPart {
	if rt.grouped != nil {
		return *rt.grouped
	}
	part := wire.SandboxPart{Name: "cgroup"}
	groups, err := cgroup.Open()
	if err == nil {
		err = supervisor.ProbeGroups(worker, groups)
	}
	if err != nil {
		part.Missing = err.Error()
	} else {
		rt.groups, part.Applied, part.Missing = groups, groups.Applied(), groups.Missing()
	}
	rt.grouped = &part
	return part
}

// probeUIDs finds out whether workers can have users of their own, if they are to.
func (j *jail) probeUIDs(a *App, book *owners.Book) error {
	uids, err := a.workerUIDs()
	if err != nil || uids == (owners.Range{}) {
		return err
	}
	part := wire.SandboxPart{Name: "worker_uids", Applied: "one of the users " + uids.String() + " for each worker"}
	err = book.Fault()
	if err == nil {
		err = supervisor.ProbeUIDs(a.Worker, uids)
	}
	if err != nil {
		part.Applied, part.Missing = "", err.Error()
	} else {
		j.uids = uids
	}
	j.Parts = append(j.Parts, part)
	return nil
}

// identityPart says whether the ids of data directories are kept.
func identityPart(book *owners.Book) wire.SandboxPart {
	part := wire.SandboxPart{Name: "identity", Applied: "ids of data directories are checked"}
	if err := book.Fault(); err != nil {
		part.Missing = err.Error()
	}
	return part
}

// log says what is missing.
func (j *jail) log(logger *zap.Logger) {
	if j.Mode == wire.SandboxOff {
		logger.Warn("workers run without a jail of their own making, as sandbox off says: one that runs foreign code reaches all that its user does")
	}
	if j.Missing != "" {
		logger.Warn("workers run without a part of their jail, which this machine does not have", zap.String("missing", j.Missing))
	}
}

// now returns the jail with what has become of the book since.
func (j *jail) now(book *owners.Book) *jail {
	is := *j
	is.Parts = slices.Clone(j.Parts)
	for i := range is.Parts {
		if is.Parts[i].Name == "identity" {
			is.Parts[i] = identityPart(book)
		}
	}
	is.Missing = wire.MissingSandbox(is.Parts)
	return &is
}
