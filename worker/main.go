// A worker sets its number of threads by itself. The runtime need not open the
// files of its cgroup for that, and keep them open.
//go:debug containermaxprocs=0

// Command sq-worker owns the data of one tenant. The edge starts it, hands it a
// listening unix socket and two pipes (package wire says which), and ends it by
// closing one of them:
//
//	sq-worker serve -tenant acme -dir /var/lib/sq/tenants/acme
//
// It inherits nothing else: its environment is empty, and neither key nor text
// is ever in its arguments.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/jail"
)

const usage = `usage:
  sq-worker serve -tenant ID -dir DIR [-at DIR] [-owner ID] [-memory MB]
                  [-threads N] [-answer-time DURATION]
                  [-sandbox strict|default|off] [-listen SOCKET]
  sq-worker sandbox           print which parts of a worker's jail this machine has, as JSON
  sq-worker version

of a tenant's data directory that no worker has open:
  sq-worker check DIR         verify every file, change nothing
  sq-worker dump DIR [DOC]    print the log's records, of one document or all, as JSON lines
  sq-worker repair DIR OUT    save what verifies into the new directory OUT, change nothing in DIR
exit status: 0 clean, 1 damaged (what could be done was done), 2 wrong usage or not done
`

func main() {
	exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: 0 after a drain or an answer, 1 after a failure,
// 2 for wrong arguments; those of the offline commands are with them.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	switch args[0] {
	case "serve":
		cfg, err := parseServe(args[1:], stderr)
		if err != nil {
			return 2
		}
		return serve(cfg)
	case "version":
		fmt.Fprintln(stdout, wire.ProductVersion)
		return 0
	case "sandbox":
		return sandbox(stdout, stderr)
	case "check", "dump", "repair":
		return offline(args[0], args[1:], stdout, stderr)
	default:
		fmt.Fprintf(stderr, "sq-worker: no command %q\n%s", args[0], usage)
		return 2
	}
}

type config struct {
	tenant  string
	dir     string
	at      string // where dir is for this process
	owner   string // id that the directory must have; "" for any
	memory  int    // MiB that documents may be held in
	sandbox wire.Sandbox
	threads int    // that the process's user may have; 0 for no bound
	listen  string // a socket to make instead of the inherited one

	answerTime time.Duration
}

// parseServe has said on stderr what is wrong where it returns an error.
func parseServe(args []string, stderr io.Writer) (config, error) {
	cfg := config{sandbox: wire.SandboxDefault}
	flags := flag.NewFlagSet("sq-worker serve", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&cfg.tenant, "tenant", "", "`id` of the tenant; requests for any other are refused")
	flags.StringVar(&cfg.dir, "dir", "", "the tenant's data `directory`, absolute; must exist")
	flags.StringVar(&cfg.at, "at", "", "where the data `directory` is for this process, such as . for a user who cannot get to it from the root; default: -dir")
	flags.StringVar(&cfg.owner, "owner", "", "the `id` that .sq/owner must name; without, the directory is taken as it is")
	flags.IntVar(&cfg.memory, "memory", wire.DefaultMemory, "`MB` of memory (MiB) for indexes, small documents and changes that are not in the files yet")
	flags.IntVar(&cfg.threads, "threads", 0, "bound the process's user to `N` threads, where it runs nothing else; 0 does not")
	flags.Func("sandbox", "the jail: `mode` strict, default or off", func(s string) (err error) {
		cfg.sandbox, err = wire.ParseSandbox(s)
		return err
	})
	flags.StringVar(&cfg.listen, "listen", "", "for debugging without the edge: make this unix `socket` and serve until SIGTERM, with -sandbox off")
	flags.DurationVar(&cfg.answerTime, "answer-time", time.Minute, "how long a client may take to read an answer, apart from a second for each 256 KiB of it")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	if cfg.at == "" {
		cfg.at = cfg.dir
	}
	if cfg.listen != "" {
		cfg.sandbox = wire.SandboxOff // or it could not remove its socket, nor be debugged
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case cfg.tenant == "":
		err = fmt.Errorf("-tenant is missing")
	case !filepath.IsAbs(cfg.dir):
		err = fmt.Errorf("-dir %q is not an absolute path", cfg.dir)
	case cfg.threads < 0:
		err = fmt.Errorf("-threads %d is negative", cfg.threads)
	case cfg.memory < wire.MinMemory || cfg.memory > wire.MaxMemory:
		err = fmt.Errorf("-memory %d is not from %d to %d", cfg.memory, wire.MinMemory, wire.MaxMemory)
	}
	if err != nil {
		fmt.Fprintf(stderr, "sq-worker serve: %v\n%s", err, usage)
	}
	return cfg, err
}

// sandbox builds the jail around this process, as serve does, and says what came
// of it.
func sandbox(stdout, stderr io.Writer) int {
	parts, err := jail.Enter(wire.SandboxDefault, jail.Bounds{Dir: "/"})
	if err == nil {
		err = json.NewEncoder(stdout).Encode(parts)
	}
	if err != nil {
		fmt.Fprintf(stderr, "sq-worker sandbox: %v\n", err)
		return 1
	}
	return 0
}
