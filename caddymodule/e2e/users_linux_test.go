package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// PrepareUsers prepares an edge whose workers have users of their own, and that
// itself runs as a user, with some rights.
func PrepareUsers(t *testing.T, uid uint32, rights ...uintptr) *Edge {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can become another user")
	}
	e := Prepare(t, Setup{Plain: true})
	e.edit("# worker_uids ", "worker_uids ", "# drain_timeout 20s", "drain_timeout 1s")
	// The test's own directories are root's alone.
	public, err := os.MkdirTemp("/tmp", "sq")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(public) })
	must(t, os.Chmod(public, 0o755))
	self, err := os.Executable()
	must(t, err)
	e.self = filepath.Join(public, "caddy")
	worker := filepath.Join(public, "sq-worker")
	for to, from := range map[string]string{e.self: self, worker: workerBinary} {
		text, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(to, text, 0o755))
	}
	e.env = append(e.env, "SQ_WORKER="+worker)
	must(t, exec.Command("chown", "-R", fmt.Sprintf("%d:%d", uid, uid), e.dir).Run())
	e.attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, AmbientCaps: rights}
	return e
}

// Each worker has a user of its own where the edge is root, or has four rights:
// the data of each tenant is that user's alone as long as it is a tenant, and the
// edge's again once it is archived.
func TestWorkersHaveUsers(t *testing.T) {
	t.Parallel()
	const at = "p=notes&c=1.1.1/1.1.1/1.1.1"
	for _, tt := range []struct {
		name   string
		uid    uint32
		rights []uintptr
	}{
		{"root", 0, nil},
		{"user with rights", 12345, []uintptr{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_KILL}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := PrepareUsers(t, tt.uid, tt.rights...)
			// Without the jail, so that nothing but the user is in the way.
			e.edit("# sandbox default", "sandbox off")
			e.Boot()
			if part := e.part("worker_uids"); part.Missing != "" || !strings.Contains(part.Applied, "200000-265535") {
				t.Errorf("health says %+v", part)
			}
			owner := func(path string) uint32 {
				t.Helper()
				var st unix.Stat_t
				must(t, unix.Lstat(path, &st))
				return st.Uid
			}
			users := map[string]uint32{}
			for _, tenant := range []string{"alpha", "beta"} {
				e.Want("tok-"+tenant, "POST", "/update?"+at, tenant, 200, fmt.Sprintf("Updated %d bytes", len(tenant)))
				users[tenant] = owner(e.Tenant(tenant).DataDir)
				if got := owner(fmt.Sprintf("/proc/%d/task", e.Worker(tenant))); got != users[tenant] {
					t.Errorf("%s's worker is uid %d's and its directory uid %d's", tenant, got, users[tenant])
				}
				status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.Worker(tenant)))
				must(t, err)
				if !strings.Contains(string(status), "CapPrm:\t0000000000000000\n") || !strings.Contains(string(status), "CapAmb:\t0000000000000000\n") {
					t.Errorf("%s's worker has rights of the edge's:\n%s", tenant, status)
				}
			}
			if users["alpha"] == users["beta"] || users["alpha"] < 200_000 || users["beta"] < 200_000 {
				t.Errorf("the directories are of %v", users)
			}
			// A worker that does not end is killed, which takes a right, too.
			pid := e.Worker("alpha")
			must(t, syscall.Kill(pid, syscall.SIGSTOP))
			e.Admin("POST", "workers/alpha/park", "", 200, nil)
			if !strings.Contains(e.Log(), "worker did not end in time and was killed") {
				t.Error("the stopped worker was not killed")
			}
			e.Quit()
			e.Boot()
			for tenant, uid := range users {
				e.Want("tok-"+tenant, "GET", "/select?"+at, "", 200, tenant)
				if again := owner(e.Tenant(tenant).DataDir); again != uid {
					t.Errorf("%s was uid %d and is %d", tenant, uid, again)
				}
			}
			var archived struct {
				ArchivedTo string `json:"archived_to"`
			}
			e.Admin("DELETE", "tenants/alpha", "", 200, &archived)
			for _, path := range []string{"", "notes.phext", ".sq/owner"} {
				if got := owner(filepath.Join(archived.ArchivedTo, path)); got != tt.uid {
					t.Errorf("the archived %q is uid %d's", path, got)
				}
			}
			var added Tenant
			e.Admin("POST", "tenants/add", `{"tenant_id": "alpha"}`, 200, &added)
			e.Want(added.Key, "POST", "/update?"+at, "new", 200, "Updated 3 bytes")
			if got := owner(added.DataDir); got < 200_000 || got == users["alpha"] || got == users["beta"] {
				t.Errorf("the new tenant has uid %d, after %v", got, users)
			}
		})
	}
}

// Without the rights workers run as the edge's user, which is said once, and
// sandbox strict does not serve.
func TestUsersWithoutRights(t *testing.T) {
	t.Parallel()
	const missing = "worker_uids: the edge has no CAP_SETUID, CAP_SETGID, CAP_CHOWN"
	e := PrepareUsers(t, 12345, unix.CAP_KILL)
	e.Boot()
	e.Want("tok-alpha", "GET", "/toc?p=notes", "", 200, "")
	e.SaysMissing(missing)
}

// An edge that has lost its rights cannot take back what a worker's own user has,
// and says who can.
func TestUsersWhoseEdgeHasLostItsRights(t *testing.T) {
	t.Parallel()
	e := PrepareUsers(t, 12345, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_KILL)
	e.Boot()
	e.Want("tok-alpha", "POST", "/update?c="+origin, "text", 200, "Updated 4 bytes")
	e.Quit()
	e.attr.AmbientCaps = nil
	e.edit("worker_uids ", "# worker_uids ")
	e.Boot()
	dir := e.Tenant("alpha").DataDir
	got, err := e.Try("tok-alpha", "GET", "/select?c="+origin, "")
	must(t, err)
	if want := "chown -R 12345:12345 " + dir; got.Status != 503 || strings.Contains(got.Body, dir) || !strings.Contains(e.Log(), want) {
		t.Errorf("the answer is %d %q, and the log lacks %q", got.Status, got.Body, want)
	}
	must(t, exec.Command("chown", "-R", "12345:12345", dir).Run())
	Eventually(t, "the tenant is served", func() error {
		got, err := e.Try("tok-alpha", "GET", "/select?c="+origin, "")
		if err != nil || got.Status != 200 || got.Body != "text" {
			return fmt.Errorf("%d %q, %v", got.Status, got.Body, err)
		}
		return nil
	})
}
