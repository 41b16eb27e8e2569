// Package e2e tests the whole service as its users meet it: a real Caddy with
// the project's Caddyfile, real workers, real sockets, TLS, signals and files.
//
// The test binary is itself a Caddy with the sq modules; run again with
// roleCaddy in its environment it is the edge, so that the edge, too, runs with
// the race detector when the tests do.
package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/sqedge/sqedge/caddymodule"
)

// roleCaddy in the environment makes the test binary a caddy command, which ends
// at the latest with its standard input.
const roleCaddy = "SQ_E2E_CADDY"

// workerBinary is the sq-worker that TestMain builds.
var workerBinary string

func TestMain(m *testing.M) {
	if os.Getenv(roleCaddy) != "" {
		os.Unsetenv(roleCaddy)
		go func() { // no edge may outlive the tests, were they killed
			io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		caddycmd.Main()
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sq-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	workerBinary = filepath.Join(dir, "sq-worker")
	args := []string{"build", "-o", workerBinary}
	if raceEnabled() {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../../worker")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the worker:", err)
		return 1
	}
	return m.Run()
}

// raceEnabled reports whether this binary was built with the race detector.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
