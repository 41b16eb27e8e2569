package supervisor

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/wire"
)

// The test binary is also a worker, for what the real one never does: it keeps
// the contract of package wire, but for the fault that the file "fault" of its
// data directory names. And it is an edge, to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case wire.CommandStandby:
			fakeWorker()
			syscall.Exit(0) // os.Exit takes a second more under the race detector
		case "edge":
			fakeEdge(os.Args[2:])
			os.Exit(0)
		}
	}
	status := m.Run()
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	os.Exit(status)
}

// Faults of a fake worker.
const (
	faultCrash      = "crash"       // panics before it is ready
	faultRefuse     = "refuse"      // says why it will not serve
	faultForeign    = "foreign"     // refuses its data directory
	faultNeverReady = "never-ready" // says nothing
	faultNoDrain    = "no-drain"    // goes on when told to end
	faultSlow       = "slow"        // is ready once the fault is healed
)

func fakeWorker() {
	signal.Ignore(syscall.SIGPIPE)
	ready, lifeline := os.NewFile(wire.FDReady, "ready"), os.NewFile(wire.FDLifeline, "lifeline")
	fmt.Fprintln(ready, wire.StandingBy)
	got, err := wire.ReadAssignment(lifeline)
	if err == io.EOF {
		return
	}
	if err != nil || len(os.Args) != 2 || len(got) != 6 || got[0] != "-tenant" || got[2] != "-dir" || got[4] != "-memory" || got[5] != "64" || len(os.Environ()) != 0 {
		panic(fmt.Sprintf("arguments %q, assignment %q, %v, environment %q", os.Args, got, err, os.Environ()))
	}
	tenant, dir := got[1], got[3]
	owned, err := os.OpenFile(filepath.Join(dir, "owner"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		panic(err)
	}
	if err := syscall.Flock(int(owned.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		panic("two workers own one directory")
	}
	appendLine(filepath.Join(dir, "starts"), fmt.Sprint(os.Getpid()))
	fault, _ := os.ReadFile(filepath.Join(dir, "fault"))
	switch string(fault) {
	case faultCrash:
		panic("fault asked for")
	case faultRefuse:
		fmt.Fprintln(ready, "the data is refused")
		os.Exit(1)
	case faultForeign:
		fmt.Fprintln(ready, wire.Refused+"it is another's")
		os.Exit(1)
	case faultNeverReady:
		time.Sleep(time.Hour) // select {} alone would be a deadlock, which ends it
	case faultSlow:
		for string(fault) == faultSlow {
			time.Sleep(time.Millisecond)
			fault, _ = os.ReadFile(filepath.Join(dir, "fault"))
		}
	}
	inherited := os.NewFile(wire.FDListener, "listener")
	listener, err := net.FileListener(inherited)
	if err != nil {
		panic(err)
	}
	inherited.Close()
	w := &fake{tenant: tenant, dir: dir, entered: make(chan struct{}), left: make(chan struct{}), listener: listener}
	server := &http.Server{Handler: w}
	go server.Serve(listener)
	fmt.Fprintln(ready, wire.Ready)
	ready.Close()
	io.Copy(io.Discard, lifeline)
	if string(fault) == faultNoDrain {
		select {}
	}
	if !w.deaf {
		server.Shutdown(context.Background())
	}
}

type fake struct {
	tenant, dir   string
	listener      net.Listener
	deaf          bool
	enter, leave  sync.Once
	entered, left chan struct{} // closed by the first request for /hang or /stream
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/who":
		fmt.Fprintf(w, "%d %s %s", os.Getpid(), f.tenant, f.dir)
	case "/echo":
		io.Copy(w, r.Body)
	case "/execute": // notes the request's body before it answers
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		appendLine(filepath.Join(f.dir, "executed"), string(body))
		if r.URL.RawQuery == "die" {
			die()
		}
	case "/hang", "/stream": // until the client goes away
		if r.URL.Path == "/stream" {
			io.WriteString(w, "begun")
			w.(http.Flusher).Flush()
		}
		f.enter.Do(func() { close(f.entered) })
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			<-r.Context().Done()
		}
		f.leave.Do(func() { close(f.left) })
	case "/entered": // answers once there was a request for /hang or /stream
		<-f.entered
	case "/left": // and once it was cancelled
		<-f.left
	case "/deafen": // takes no connection from now on, but does not end
		f.deaf = true
		f.listener.Close()
		w.Header().Set("Connection", "close")
	case "/die":
		die()
	default:
		http.NotFound(w, r)
	}
}

func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func appendLine(path, line string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		panic(err)
	}
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Fields(string(data))
}

// fakeEdge starts a worker, answers its first request on stdout, behind a line with
// its spares, and waits to be killed. Its arguments are worker binary, run directory,
// tenant, data directory and the request's URI.
func fakeEdge(args []string) {
	s, err := New(Config{Worker: args[0], RunDir: args[1], Logger: zap.NewExample(), SpareWorkers: 2})
	if err != nil {
		panic(err)
	}
	resp, err := s.RoundTrip(context.Background(), Spec{Tenant: args[2], DataDir: args[3]}, request(http.MethodGet, args[4], ""))
	if err != nil {
		panic(err)
	}
	resp.Body.Close()
	for s.spares.count() < 2 {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("spares", sparePIDs(s))
	fmt.Println(resp.StatusCode)
	select {}
}
