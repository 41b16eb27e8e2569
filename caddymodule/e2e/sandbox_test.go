package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sqedge/sqedge/shared/wire"
)

// sandboxHealth is what health says of the workers' jail.
type sandboxHealth struct {
	Status  string
	Sandbox struct {
		Mode    wire.Sandbox
		Parts   []wire.SandboxPart
		Missing string
	}
}

// lackingWorker returns a worker that finds a machine without Landlock.
func lackingWorker(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sq-worker")
	must(t, os.WriteFile(path, fmt.Appendf(nil, `#!/bin/sh
[ "$1" != sandbox ] || exec echo '[{"name":"landlock","missing":"none here"},{"name":"seccomp","applied":"all"}]'
exec %s "$@"
`, workerBinary), 0o700))
	return path
}

// prepareSandbox prepares an edge with the option sandbox.
func prepareSandbox(t *testing.T, mode string, env ...string) *Edge {
	t.Helper()
	e := Prepare(t, Setup{Plain: true, Env: env})
	e.edit("# sandbox default", "sandbox "+mode)
	return e
}

// What is missing of the jail is said once, however many workers there are, and
// shows in health; the workers serve.
func TestSandboxDefaultSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true, Env: []string{"SQ_WORKER=" + lackingWorker(t)}})
	for _, tenant := range []string{"alpha", "beta"} {
		e.Want("tok-"+tenant, "GET", "/toc?p=notes", "", 200, "")
	}
	var h sandboxHealth
	e.Admin("GET", "health", "", 200, &h)
	if h.Status != "ok" || h.Sandbox.Mode != wire.SandboxDefault || !strings.Contains(h.Sandbox.Missing, "landlock: none here") || len(h.Sandbox.Parts) < 3 {
		t.Errorf("health is %+v", h)
	}
	if n := strings.Count(e.Log(), "landlock: none here"); n != 1 {
		t.Errorf("the log says %d times what is missing:\n%s", n, e.Log())
	}
}

// Under strict the edge does not start without the whole jail, and says why.
func TestSandboxStrictRefuses(t *testing.T) {
	t.Parallel()
	e := prepareSandbox(t, "strict", "SQ_WORKER="+lackingWorker(t))
	if out, want := e.StartFails(), "sandbox strict: this machine does not have all of a worker's jail (landlock: none here"; !strings.Contains(out, want) {
		t.Errorf("the edge ended with\n%s\nwant %q", out, want)
	}
}

// A jail that is off is said to be, and health shows it.
func TestSandboxOff(t *testing.T) {
	t.Parallel()
	e := prepareSandbox(t, "off")
	e.Boot()
	e.Want("tok-alpha", "GET", "/toc?p=notes", "", 200, "")
	var h sandboxHealth
	e.Admin("GET", "health", "", 200, &h)
	if h.Sandbox.Mode != wire.SandboxOff || slices.ContainsFunc(h.Sandbox.Parts, func(p wire.SandboxPart) bool { return p.Name == "seccomp" }) || !strings.Contains(e.Log(), "workers run without a jail") {
		t.Errorf("health is %+v and the log\n%s", h, e.Log())
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.Worker("alpha")))
	if err != nil || !strings.Contains(string(status), "\nNoNewPrivs:\t0\n") {
		t.Errorf("the worker has the status\n%s\n%v", status, err)
	}
}

// SaysMissing wants a missing part of the jail to be told once by the log, and by
// health, and to keep an edge under sandbox strict from serving. It ends the edge.
func (e *Edge) SaysMissing(missing string) {
	e.t.Helper()
	var h sandboxHealth
	e.Admin("GET", "health", "", 200, &h)
	if !strings.Contains(h.Sandbox.Missing, missing) || strings.Count(e.Log(), missing) != 1 {
		e.t.Errorf("health is %+v and the log\n%s", h, e.Log())
	}
	e.Quit()
	e.edit("# sandbox default", "sandbox strict")
	if out := e.StartFails(); !strings.Contains(out, missing) {
		e.t.Errorf("under strict the edge ended with\n%s", out)
	}
}
