package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/wire"
)

// The test binary is the worker too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{wire.CommandStandby, "serve", "sandbox", "version", "check", "dump", "repair"}, os.Args[1]) {
		main()
	}
	os.Exit(m.Run())
}

// deadline bounds the waiting for what must happen.
const deadline = time.Minute

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, path, args...)
}

func TestArguments(t *testing.T) {
	tests := []struct {
		args   string
		status int
		want   string // on stdout or stderr
	}{
		{"", 2, "usage:"},
		{"help", 2, `no command "help"`},
		{"serve", 2, "-tenant is missing"},
		{"serve -tenant acme", 2, `-dir "" is not an absolute path`},
		{"serve -tenant acme -dir data", 2, `-dir "data" is not an absolute path`},
		{"serve -tenant acme -dir /data -memory 7", 2, "-memory 7 is not from 8 to"},
		{"serve -tenant acme -dir /data more", 2, `unexpected argument "more"`},
		{"serve -tenant acme -dir /data", 2, "-listen is missing"},
		{"serve -tenant acme -dir /data -listen s -sandbox strict", 2, "flag provided but not defined: -sandbox"},
		{"serve -key secret", 2, "flag provided but not defined: -key"},
		{"version", 0, wire.ProductVersion + "\n"},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		if status := run(strings.Fields(tt.args), &out, &out); status != tt.status || !strings.Contains(out.String(), tt.want) {
			t.Errorf("sq-worker %s: status %d and %q, want %d and %q in it", tt.args, status, out.String(), tt.status, tt.want)
		}
	}
}

// Started by hand, or with the wrong descriptors, a worker says what it misses
// and touches no data.
func TestDescriptors(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	pipe, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer other.Close()
	socket := mustListen(t)
	for _, tt := range []struct {
		name  string
		files []*os.File
		want  string
	}{
		{"by hand", nil, "descriptor 3 is not the socket"},
		{"file for socket", []*os.File{file, pipe, other}, "descriptor 3 is not the socket"},
		{"file for lifeline", []*os.File{socket, file, other}, "descriptor 4 is not the lifeline pipe"},
		{"socket for ready pipe", []*os.File{socket, pipe, socket}, "descriptor 5 is not the ready pipe"},
		{"one missing", []*os.File{socket, pipe}, "descriptor 5 is not the ready pipe"},
	} {
		dir := t.TempDir()
		cmd := command(t, wire.CommandStandby, "-tenant", "acme", "-dir", dir)
		cmd.ExtraFiles = tt.files
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), tt.want) || !strings.Contains(string(out), "-listen") {
			t.Errorf("%s: %v and %q, want %q and a way out", tt.name, cmd.ProcessState, out, tt.want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: the data directory holds %v, %v", tt.name, left, err)
		}
	}
}

// A worker in waiting ends quietly when it is never given a tenant, and says what is
// wrong with what it is given.
func TestStandby(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		status     int
		want       string // on stderr, all of it where it is empty
	}{
		{"nothing", "", 0, ""},
		{"no line", `["-tenant"`, 1, "the assignment is cut short"},
		{"no array", "acme\n", 1, "not an array of strings"},
		{"no flags", "[]\n", 2, "-tenant is missing"},
		{"no directory", `["-tenant","acme"]` + "\n", 2, `-dir "" is not an absolute path`},
		{"a command", `["serve","-tenant","acme","-dir","/data"]` + "\n", 2, `unexpected argument "serve"`},
		{"another sandbox", `["-tenant","acme","-dir","/data","-sandbox","off"]` + "\n", 2, "-sandbox comes too late"},
		{"a socket", `["-tenant","acme","-dir","/data","-listen","s"]` + "\n", 2, "flag provided but not defined: -listen"},
		{"no sandbox", `["-tenant","acme","-dir","/data","-sandbox"]` + "\n", 2, "flag needs an argument: -sandbox"},
		{"unknown sandbox", `["-tenant","acme","-dir","/data","-sandbox","none"]` + "\n", 2, `"none" is no sandbox: want strict, default or off`},
	} {
		w := startStandby(t, mustListen(t))
		if _, err := w.lifeline.WriteString(tt.line); err != nil {
			t.Fatal(err)
		}
		w.lifeline.Close()
		w.Wait()
		if got := w.stderr.String(); w.ProcessState.ExitCode() != tt.status || !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
			t.Errorf("%s: %v and %q, want status %d and %q", tt.name, w.ProcessState, got, tt.status, tt.want)
		}
		if line, err := w.said.ReadString('\n'); line != "" || err != io.EOF {
			t.Errorf("%s: it goes on to say %q, %v", tt.name, line, err)
		}
	}
}

// Who looks at the machine's processes sees whose a worker is.
func TestName(t *testing.T) {
	w := startWorker(t, t.TempDir())
	got, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", w.Process.Pid))
	if os.IsNotExist(err) {
		t.Skip("skipped: this system has no /proc")
	}
	if err != nil || string(got) != "sq:acme\n" {
		t.Errorf("it is named %q, %v", got, err)
	}
}

func mustListen(t *testing.T) *os.File {
	t.Helper()
	dir, err := os.MkdirTemp("", "sq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// process is a worker's, started as the edge does.
type process struct {
	*exec.Cmd
	client   *http.Client
	lifeline *os.File
	said     *bufio.Reader // the ready pipe
	ready    string        // what it said there once it was assigned
	path     string        // of the socket
	stderr   *bytes.Buffer
}

func startWorker(t *testing.T, dir string, flags ...string) *process {
	t.Helper()
	socket := mustListen(t)
	defer socket.Close()
	return startWorkerAt(t, dir, socket, flags...)
}

// startWorkerAt starts a worker at a socket that may outlive it.
func startWorkerAt(t *testing.T, dir string, socket *os.File, flags ...string) *process {
	t.Helper()
	var mode []string
	if len(flags) > 0 && flags[0] == "-sandbox" {
		mode, flags = flags[:2], flags[2:]
	}
	w := startStandby(t, socket, mode...)
	line, err := wire.Assignment(append([]string{"-tenant", "acme", "-dir", dir}, flags...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.lifeline.Write(line); err != nil {
		t.Fatal(err)
	}
	w.ready, _ = w.said.ReadString('\n')
	w.client = unixClient(w.path)
	return w
}

// startStandby starts a worker that waits for its assignment.
func startStandby(t *testing.T, socket *os.File, mode ...string) *process {
	t.Helper()
	addr, err := net.FileListener(socket)
	if err != nil {
		t.Fatal(err)
	}
	path := addr.Addr().String()
	addr.Close()
	lifelineRead, lifeline, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ready, readyWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w := &process{Cmd: command(t, append([]string{wire.CommandStandby}, mode...)...), lifeline: lifeline, stderr: new(bytes.Buffer), said: bufio.NewReader(ready), path: path}
	w.Stderr = w.stderr
	w.ExtraFiles = []*os.File{socket, lifelineRead, readyWrite}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	lifelineRead.Close()
	readyWrite.Close()
	t.Cleanup(func() {
		w.Process.Kill()
		w.Wait()
		lifeline.Close()
		ready.Close()
	})
	if line, err := w.said.ReadString('\n'); err != nil || line != wire.StandingBy+"\n" {
		t.Fatalf("it says %q, %v; stderr: %s", line, err, w.stderr)
	}
	return w
}

func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
}

// mustAsk returns the answer to a request, which must be 200.
func mustAsk(t *testing.T, c *http.Client, method, uri, body string) string {
	t.Helper()
	r, err := http.NewRequest(method, "http://sq"+uri, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(wire.HeaderQuota, "0")
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %q %v", method, uri, resp.Status, answer, err)
	}
	return string(answer)
}

func mustHold(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %d bytes %.20q, %v; want %d bytes %.20q", filepath.Base(path), len(got), got, err, len(want), want)
	}
}

const noteURI = "?c=acme.1.1.1/1.1.1/1.1.1&p=notes"

// Whatever tells a worker to end, it answers what it has, writes its
// checkpoints and exits with status 0.
func TestDrain(t *testing.T) {
	for name, end := range map[string]func(*process){
		"lifeline": func(w *process) { w.lifeline.Close() },
		"SIGTERM":  func(w *process) { w.Process.Signal(syscall.SIGTERM) },
		"SIGINT":   func(w *process) { w.Process.Signal(syscall.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := startWorker(t, dir)
			if !strings.HasPrefix(w.ready, wire.Ready+" ") {
				t.Fatalf("ready line %q; stderr: %s", w.ready, w.stderr)
			}
			mustAsk(t, w.client, http.MethodPost, "/insert"+noteURI, "first ")

			// A request is under way: its head is read, since the socket's
			// buffer does not hold what is sent, but its body is not all there.
			// The end is ordered now, and shows when the socket refuses.
			const size = 4 << 20
			body, rest := io.Pipe()
			r, err := http.NewRequest(http.MethodPost, "http://sq/insert"+noteURI, body)
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = size
			r.Header.Set(wire.HeaderQuota, "0")
			answered := make(chan error, 1)
			go func() {
				resp, err := w.client.Do(r)
				if err == nil {
					resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						err = fmt.Errorf("status %s", resp.Status)
					}
				}
				answered <- err
			}()
			if _, err := rest.Write(bytes.Repeat([]byte("x"), size-1)); err != nil {
				t.Fatal(err)
			}
			end(w)
			idle := w.client.Transport.(*http.Transport).Clone()
			for err == nil {
				var resp *http.Response
				fresh, _ := http.NewRequest(http.MethodGet, "http://sq/version?c=acme", nil)
				fresh.Close = true
				if resp, err = idle.RoundTrip(fresh); err == nil {
					resp.Body.Close()
				}
			}
			rest.Write([]byte("y"))
			rest.Close()
			if err := <-answered; err != nil {
				t.Errorf("the request under way: %v", err)
			}
			if err := w.Wait(); err != nil {
				t.Errorf("%v; stderr: %s", err, w.stderr)
			}
			mustHold(t, filepath.Join(dir, "notes.phext"), "first "+strings.Repeat("x", size-1)+"y")
		})
	}
}

// What a worker cannot open it says on the ready pipe, in one line.
func TestReadyPipeCarriesReason(t *testing.T) {
	w := startWorker(t, filepath.Join(t.TempDir(), "none"))
	if !strings.Contains(w.ready, "no such file or directory") || !strings.HasSuffix(w.ready, "\n") {
		t.Errorf("ready line %q, want the reason", w.ready)
	}
	w.Wait()
	if status := w.ProcessState.ExitCode(); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
}

// The reader of stderr may be gone while the worker drains.
func TestDrainWithoutStderr(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(mustTempDir(t), "s")
	cmd := command(t, "serve", "-tenant", "acme", "-dir", dir, "-listen", socket)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	read.Close()
	client := awaitSocket(t, socket)
	mustAsk(t, client, http.MethodPost, "/insert"+noteURI, "kept")
	// Makes the worker log a line, to nobody.
	resp, err := client.Get("http://sq/select?c=other.1.1.1/1.1.1/1.1.1&p=notes")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	mustHold(t, filepath.Join(dir, "notes.phext"), "kept")
}

func mustTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sq") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// awaitSocket returns a client for a worker that makes its socket by itself.
func awaitSocket(t *testing.T, path string) *http.Client {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
			return unixClient(path)
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// By hand a worker makes its own socket, and takes it away.
func TestListen(t *testing.T) {
	dir, socket := t.TempDir(), filepath.Join(mustTempDir(t), "s")
	cmd := command(t, "serve", "-tenant", "acme", "-dir", dir, "-listen", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := awaitSocket(t, socket)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
	if got := mustAsk(t, client, http.MethodGet, "/version?c=acme", ""); got != wire.ProductVersion {
		t.Errorf("version %q, want %q", got, wire.ProductVersion)
	}
	second := command(t, "serve", "-tenant", "acme", "-dir", dir, "-listen", socket)
	if out, _ := second.CombinedOutput(); second.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "remove the socket") {
		t.Errorf("a second one at the same socket: %v, %q", second.ProcessState, out)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}
