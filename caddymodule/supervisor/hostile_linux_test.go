package supervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/sqedge/sqedge/shared/wire"
)

// mustBuildHostile builds the worker that has turned against the machine, static
// as workers are.
func mustBuildHostile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostile")
	build := exec.Command("go", "build", "-o", path, "../../worker/jail/hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the hostile worker: %v\n%s", err, out)
	}
	return path
}

// attackResult is the outcome of one of the hostile worker's attempts.
type attackResult struct {
	Group, Name, Error string
	Absent             bool
}

// A worker that runs foreign code can do nothing of what it tries to; without
// its jail it could do all of it.
func TestHostileWorker(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root's worker without a jail may do all that is tried, so that nothing would be shown")
	}
	hostile := mustBuildHostile(t)
	jailed := mustAttack(t, hostile, wire.SandboxStrict)
	free := mustAttack(t, hostile, wire.SandboxOff)
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tattempt\tin the jail\twithout it")
	succeeded, shown := 0, 0
	for i, r := range jailed {
		control := free[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Group, r.Name, orDone(r), orDone(control))
		if r.Error == "" {
			succeeded++
			t.Errorf("%s: a jailed worker can %s", r.Group, r.Name)
		}
		switch {
		case control.Error == "":
			shown++
		case !control.Absent:
			t.Errorf("%s: a worker without a jail cannot %s (%s), so this shows nothing", r.Group, r.Name, control.Error)
		}
	}
	w.Flush()
	t.Logf("%d attempts, of which %d succeed in the jail and %d without it\n%s", len(jailed), succeeded, shown, &table)
}

func orDone(r attackResult) string {
	if r.Error == "" {
		return "DONE"
	}
	// Paths are long and the same everywhere.
	return r.Error[strings.LastIndex(r.Error, ": ")+1:]
}

// mustAttack has a hostile worker in sandbox mode attack what surrounds it.
func mustAttack(t *testing.T, worker string, mode wire.Sandbox) []attackResult {
	t.Helper()
	s, _ := mustNew(t, Config{Worker: worker, Sandbox: mode})
	root := t.TempDir()
	spec := Spec{Tenant: "hostile", DataDir: filepath.Join(root, "hostile")}
	sibling := filepath.Join(root, "sibling")
	for _, dir := range []string{spec.DataDir, sibling} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(sibling, "secret.phext")
	for _, path := range []string{secret, filepath.Join(sibling, "spare")} {
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(spec.DataDir, "planted")); err != nil {
		t.Fatal(err)
	}
	mustAccept(t, "unix", filepath.Join(s.cfg.Load().RunDir, "sibling.sock"))
	victim := exec.Command("sleep", "3600")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		victim.Process.Kill()
		victim.Wait()
	})
	results := mustTry(t, s, spec, sibling, victim.Process.Pid)
	if mode != wire.SandboxOff {
		if text, err := os.ReadFile(secret); err != nil || string(text) != "secret" {
			t.Errorf("afterwards the sibling's document is %q, %v", text, err)
		}
	}
	return results
}

// mustTry has a hostile worker try all it can to a sibling's directory and to a
// victim, and to the socket of the tenant "sibling".
func mustTry(t *testing.T, s *Supervisor, spec Spec, sibling string, victim int) []attackResult {
	t.Helper()
	runDir := s.cfg.Load().RunDir
	abstract := fmt.Sprintf("@sq-%s", filepath.Base(filepath.Dir(runDir)))
	mustAccept(t, "unix", abstract)
	tcp := mustAccept(t, "tcp", "127.0.0.1:0").(*net.TCPAddr)
	body, err := json.Marshal(map[string]any{
		"Dir": spec.DataDir, "Sibling": sibling, "RunDir": runDir, "Socket": filepath.Join(runDir, "sibling.sock"),
		"Abstract": abstract, "TCP": tcp.Port, "Victim": victim,
	})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := do(testContext(t), s, spec, request(http.MethodPost, "/attack", string(body)))
	if err != nil {
		t.Fatal(err)
	}
	var results []attackResult
	if err := json.Unmarshal([]byte(answer), &results); err != nil || len(results) == 0 {
		t.Fatalf("answer %q, %v", answer, err)
	}
	return results
}

// mustAccept listens and takes every connection until the test ends.
func mustAccept(t *testing.T, network, address string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return l.Addr()
}
