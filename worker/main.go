// A worker sets its number of threads by itself. The runtime need not open the
// files of its cgroup for that, and keep them open.
//go:debug containermaxprocs=0

// Command sq-worker owns the data of one tenant. The edge starts it as
//
//	sq-worker standby
//
// and hands it a unix socket and two pipes (package wire says which). Through one of
// them it says whose data it is to serve, at once or when somebody asks for that
// tenant, and ends it by closing it. From then on it is named sq:TENANT, where a
// process has a name beside its arguments. It inherits nothing else: its environment
// is empty, and neither key nor text is ever in its arguments or its assignment. By hand
// it is
//
//	sq-worker serve -tenant acme -dir /var/lib/sq/tenants/acme -listen SOCKET
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
  sq-worker standby [-sandbox strict|default|off] [FLAG]...
                              be told the rest by the edge, which starts this, and serve
  sq-worker serve -listen SOCKET -tenant ID -dir DIR [-at DIR] [-owner ID]
                  [-memory MB] [-threads N] [-answer-time DURATION]
                              serve a tenant by hand, for debugging
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
	case wire.CommandStandby:
		return standby(args[1:], stderr)
	case "serve":
		return byHand(args[1:], stderr)
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
	threads int // that the process's user may have; 0 for no bound

	answerTime time.Duration
}

// invocation is a command that serves, with its flags.
type invocation struct {
	config
	flags *flag.FlagSet
}

func newInvocation(name string, stderr io.Writer) *invocation {
	c := &invocation{config: config{sandbox: wire.SandboxDefault}, flags: flag.NewFlagSet("sq-worker "+name, flag.ContinueOnError)}
	flags := c.flags
	flags.SetOutput(stderr)
	flags.StringVar(&c.tenant, "tenant", "", "`id` of the tenant; requests for any other are refused")
	flags.StringVar(&c.dir, "dir", "", "the tenant's data `directory`, absolute; must exist")
	flags.StringVar(&c.at, "at", "", "where the data `directory` is for this process, such as . for a user who cannot get to it from the root; default: -dir")
	flags.StringVar(&c.owner, "owner", "", "the `id` that .sq/owner must name; without, the directory is taken as it is")
	flags.IntVar(&c.memory, "memory", wire.DefaultMemory, "`MB` of memory (MiB) for indexes, small documents and changes that are not in the files yet")
	flags.IntVar(&c.threads, "threads", 0, "bound the process's user to `N` threads, where it runs nothing else; 0 does not")
	flags.DurationVar(&c.answerTime, "answer-time", time.Minute, "how long a client may take to read an answer, apart from a second for each 256 KiB of it")
	return c
}

// check finishes what was parsed, or says on stderr what is wrong with it.
func (c *invocation) check() error {
	if c.at == "" {
		c.at = c.dir
	}
	switch {
	case c.flags.NArg() > 0:
		return c.wrong("unexpected argument %q", c.flags.Arg(0))
	case c.tenant == "":
		return c.wrong("-tenant is missing")
	case !filepath.IsAbs(c.dir):
		return c.wrong("-dir %q is not an absolute path", c.dir)
	case c.threads < 0:
		return c.wrong("-threads %d is negative", c.threads)
	case c.memory < wire.MinMemory || c.memory > wire.MaxMemory:
		return c.wrong("-memory %d is not from %d to %d", c.memory, wire.MinMemory, wire.MaxMemory)
	}
	return nil
}

func (c *invocation) wrong(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	fmt.Fprintf(c.flags.Output(), "%s: %v\n%s", c.flags.Name(), err, usage)
	return err
}

// sandbox builds the jail around this process, as serve does, and says what came
// of it.
func sandbox(stdout, stderr io.Writer) int {
	var parts []wire.SandboxPart
	cell, err := jail.Begin(wire.SandboxDefault)
	if err == nil {
		parts, err = cell.Enter(jail.Bounds{Dir: "/"})
	}
	if err == nil {
		err = json.NewEncoder(stdout).Encode(parts)
	}
	if err != nil {
		fmt.Fprintf(stderr, "sq-worker sandbox: %v\n", err)
		return 1
	}
	return 0
}
