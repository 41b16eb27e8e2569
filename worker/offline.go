package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

// The exit statuses of the commands that look at data without a worker.
const (
	exitClean   = 0
	exitDamaged = 1
	exitNotDone = 2 // wrong usage, or the data could not be looked at
)

// offlineCommands take the data directory and at most one more argument.
var offlineCommands = map[string]struct {
	min, max int // arguments
	run      func(args []string, stdout, stderr io.Writer) (damaged bool, err error)
}{
	"check":  {1, 1, check},
	"dump":   {1, 2, dump},
	"repair": {2, 2, repair},
}

// offline runs one of offlineCommands and returns the exit status.
func offline(name string, args []string, stdout, stderr io.Writer) int {
	command := offlineCommands[name]
	flags := flag.NewFlagSet("sq-worker "+name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	if err := flags.Parse(args); err != nil {
		return exitNotDone
	}
	if n := flags.NArg(); n < command.min || n > command.max {
		fmt.Fprintf(stderr, "sq-worker %s: %d arguments\n%s", name, n, usage)
		return exitNotDone
	}
	out := bufio.NewWriter(stdout)
	damaged, err := command.run(flags.Args(), out, stderr)
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	if errors.Is(err, engine.ErrLocked) {
		err = fmt.Errorf("%w: disable the tenant in tenants.json, or work on a copy", err)
	}
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "sq-worker %s %s: %v\n", name, flags.Arg(0), err)
		return exitNotDone
	case damaged:
		return exitDamaged
	}
	return exitClean
}

func check(args []string, stdout, _ io.Writer) (damaged bool, err error) {
	r, err := engine.Check(args[0])
	if err != nil {
		return false, err
	}
	printFindings(stdout, r.Findings)
	if r.Tenant != "" {
		fmt.Fprintf(stdout, "tenant: %s\n", r.Tenant)
	}
	fmt.Fprintf(stdout, "documents: %d readable, %d bytes, %d scrolls, %d with changes that only the log holds\n", r.Documents, r.Bytes, r.Scrolls, r.Unsaved)
	fmt.Fprintf(stdout, "log: %d segments, %d records", r.Segments, r.Records)
	if r.Records > 0 {
		fmt.Fprintf(stdout, ", sequence %d to %d", r.FirstSeq, r.LastSeq)
	}
	fmt.Fprintln(stdout)
	if r.Damaged() {
		fmt.Fprintln(stdout, "DAMAGED")
	} else {
		fmt.Fprintln(stdout, "clean")
	}
	return r.Damaged(), nil
}

func dump(args []string, stdout, stderr io.Writer) (damaged bool, err error) {
	document := ""
	if len(args) > 1 {
		document = args[1]
		if err := wire.CheckDocument(document); err != nil {
			return false, err
		}
	}
	out := json.NewEncoder(stdout)
	out.SetEscapeHTML(false)
	findings, err := engine.Dump(args[0], document, func(r engine.Record) error { return out.Encode(r) })
	if err != nil {
		return false, err
	}
	return printFindings(stderr, findings), nil
}

func repair(args []string, stdout, _ io.Writer) (damaged bool, err error) {
	s, err := engine.Repair(args[0], args[1])
	if err != nil {
		return false, err
	}
	for _, line := range s.Saved {
		fmt.Fprintf(stdout, "saved: %s\n", line)
	}
	damaged = printFindings(stdout, s.Left)
	if damaged {
		fmt.Fprintln(stdout, "INCOMPLETE: what is damaged is in the old directory only")
	} else {
		fmt.Fprintln(stdout, "complete")
	}
	return damaged, nil
}

// printFindings reports whether any is damage.
func printFindings(w io.Writer, findings []engine.Finding) (damaged bool) {
	for _, f := range findings {
		fmt.Fprintln(w, f)
		damaged = damaged || f.Damage
	}
	return damaged
}
