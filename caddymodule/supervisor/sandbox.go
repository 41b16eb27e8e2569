package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"github.com/sqedge/sqedge/caddymodule/cgroup"
	"github.com/sqedge/sqedge/caddymodule/owners"
	"github.com/sqedge/sqedge/shared/wire"
)

// probeTimeout bounds a run of the worker binary that does no work.
const probeTimeout = 10 * time.Second

// ProbeGroups has the worker binary start in a group of its own.
func ProbeGroups(worker string, groups *cgroup.Tree) error {
	group, err := groups.Make(".probe", cgroup.Limits{Memory: memoryMax(0), PIDs: wire.MaxThreads})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	probe := exec.CommandContext(ctx, worker, "version")
	probe.Env, probe.Dir = []string{}, "/"
	if err = group.Start(probe); err == nil {
		err = probe.Wait()
	}
	if err != nil {
		err = fmt.Errorf("starting a process in a group: %w", err)
	}
	return errors.Join(err, group.Remove())
}

// ProbeUIDs has the worker binary start as another user.
func ProbeUIDs(worker string, uids owners.Range) error {
	if err := checkUserRights(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	probe := exec.CommandContext(ctx, worker, "version")
	probe.Env, probe.Dir, probe.SysProcAttr = []string{}, "/", new(syscall.SysProcAttr)
	runAs(probe.SysProcAttr, uids.First)
	if err := probe.Run(); err != nil {
		return fmt.Errorf("starting the worker binary as uid %d, who must be able to reach and run it: %w", uids.First, err)
	}
	return nil
}

// ProbeSandbox has the worker binary build its jail around nothing and returns
// what came of it, which is what its workers will have on this machine.
func ProbeSandbox(worker string) ([]wire.SandboxPart, error) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	probe := exec.CommandContext(ctx, worker, "sandbox")
	probe.Env = []string{}
	probe.Dir = "/"
	out, err := probe.Output()
	if err != nil {
		return nil, fmt.Errorf("running %s sandbox: %w", worker, err)
	}
	var parts []wire.SandboxPart
	if err := json.Unmarshal(out, &parts); err != nil || len(parts) == 0 {
		return nil, fmt.Errorf("running %s sandbox: it did not say what it can do; is it as new as the edge?", worker)
	}
	return parts, nil
}
