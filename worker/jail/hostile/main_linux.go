// Command hostile is a worker that has turned against the machine. The jail's
// test starts it as the edge starts any worker, and asks it over its socket to
// try all that a worker must not be able to do.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/jail"
)

// targets are what to attack; the test fills them in.
type targets struct {
	Dir      string // its own data directory, which holds the link "planted" to the secret
	Sibling  string // another tenant's, which holds secret.phext and spare
	RunDir   string // of the sockets
	Socket   string // a sibling's
	Abstract string // name of an abstract socket that listens
	TCP      int    // port on loopback where an admin endpoint listens
	Victim   int    // process id
}

// result is the outcome of one attempt.
type result struct {
	Group, Name string
	Error       string // empty where it succeeded
	Absent      bool   // the kernel does not have the call at all
}

func main() {
	lifeline, ready := os.NewFile(wire.FDLifeline, "lifeline"), os.NewFile(wire.FDReady, "ready")
	mode := wire.SandboxDefault
	if len(os.Args) > 3 {
		mode = wire.Sandbox(os.Args[3]) // behind standby -sandbox
	}
	cell, err := jail.Begin(mode)
	must(err)
	fmt.Fprintln(ready, wire.StandingBy)
	assignment, err := wire.ReadAssignment(lifeline)
	must(err)
	args := map[string]string{}
	for pair := range slices.Chunk(assignment, 2) {
		args[pair[0]] = pair[1]
	}
	threads, _ := strconv.Atoi(args["-threads"])
	inherited := os.NewFile(wire.FDListener, "listener")
	listener, err := net.FileListener(inherited)
	must(err)
	inherited.Close()
	_, err = cell.Enter(jail.Bounds{Dir: cmp.Or(args["-at"], args["-dir"]), Threads: threads})
	must(err)
	mux := http.NewServeMux()
	mux.HandleFunc("/attack", func(w http.ResponseWriter, r *http.Request) {
		var t targets
		must(json.NewDecoder(r.Body).Decode(&t))
		json.NewEncoder(w).Encode(attack(t))
	})
	mux.HandleFunc("/burn", func(http.ResponseWriter, *http.Request) { burn(args["-dir"]) })
	var spinning atomic.Bool
	mux.HandleFunc("/spin", func(http.ResponseWriter, *http.Request) {
		spinning.Store(true)
		for range runtime.NumCPU() {
			go func() {
				for spinning.Load() {
				}
			}()
		}
	})
	mux.HandleFunc("/rest", func(http.ResponseWriter, *http.Request) { spinning.Store(false) })
	go http.Serve(listener, mux)
	fmt.Fprintln(ready, wire.Ready)
	ready.Close()
	io.Copy(io.Discard, lifeline)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func attack(t targets) []result {
	var results []result
	for _, a := range attempts {
		done := make(chan error)
		go func() {
			// The thread ends with the goroutine: what it changed of itself
			// goes with it.
			runtime.LockOSThread()
			done <- a.try(t)
		}()
		r := result{Group: a.group, Name: a.name}
		if err := <-done; err != nil {
			r.Error, r.Absent = err.Error(), errors.Is(err, unix.ENOSYS)
		}
		results = append(results, r)
	}
	return results
}

// burn uses processor, disk and memory as fast as it may, for as long as it lives.
func burn(dir string) {
	for range 2 * runtime.NumCPU() {
		go func() {
			for n := 0; ; n++ {
				runtime.KeepAlive(n)
			}
		}()
	}
	go func() {
		block := make([]byte, 1<<20)
		for {
			f, err := os.Create(filepath.Join(dir, "burn"))
			must(err)
			for range 64 {
				f.Write(block)
			}
			f.Sync()
			f.Close()
		}
	}()
	go func() {
		for {
			block := make([]byte, 64<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
		}
	}()
}
