package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/internal/faults"
)

func init() { faults.Expose() }

// ask returns status and body of the answer to a request.
func ask(t *testing.T, c *http.Client, method, uri, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://sq"+uri, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(wire.HeaderQuota, "0")
	resp, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, uri, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, uri, err)
	}
	return resp.StatusCode, string(answer)
}

// mustMount mounts an empty file system of 8 MiB until the test ends.
func mustMount(t *testing.T, kind string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	if kind == "tmpfs" {
		if err := unix.Mount("sq", dir, "tmpfs", 0, "size=8m"); err != nil {
			t.Fatal(err)
		}
	} else {
		image := filepath.Join(t.TempDir(), "image")
		for _, args := range [][]string{
			{"truncate", "--size=8M", image}, {"mkfs." + kind, "-q", image}, {"mount", "-o", "loop", image, dir},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", args[0], err, out)
			}
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

// TestFullDisk fills the disk under a worker, and makes room again. While it is
// full writes are answered 507 and change nothing, reads go on, and a worker
// that is killed then starts all the same; afterwards writes go on.
func TestFullDisk(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			mount := mustMount(t, kind)
			dir, filler := filepath.Join(mount, "data"), filepath.Join(mount, "filler")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			w := startWorker(t, dir)
			want := "first "
			mustAsk(t, w.client, http.MethodPost, "/insert"+noteURI, want)
			mustAsk(t, w.client, http.MethodPost, "/replace?c=acme&p=other", "whole")

			var st unix.Statfs_t
			if err := unix.Statfs(mount, &st); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filler, make([]byte, int64(st.Bavail)*st.Bsize-500<<10), 0o600); err != nil {
				t.Fatal(err)
			}
			full := func(method, uri, body string) bool {
				t.Helper()
				status, answer := ask(t, w.client, method, uri, body)
				if status == http.StatusOK {
					return false
				}
				if status != http.StatusInsufficientStorage || !strings.Contains(answer, "disk is full") ||
					strings.Contains(answer, mount) || strings.Contains(answer, "\n") {
					t.Fatalf("%s %s: %d %q, want 507 that says why", method, uri, status, answer)
				}
				return true
			}
			fill := func() {
				t.Helper()
				for n := 0; ; n++ {
					text := fmt.Sprintf("%06d %s", n, strings.Repeat("x", 10<<10))
					if full(http.MethodPost, "/insert"+noteURI, text) {
						break
					}
					want += text
				}
				full(http.MethodPost, "/replace?c=acme&p=other", strings.Repeat("large", 1<<20))
				mustRead(t, w.client, want)
			}
			fill()
			w.Process.Kill()
			w.Wait()
			w = startWorker(t, dir)
			if !strings.HasPrefix(w.ready, wire.Ready+" ") {
				t.Fatalf("on a full disk: ready line %q; stderr: %s", w.ready, w.stderr)
			}
			mustRead(t, w.client, want)
			fill()

			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				text := fmt.Sprintf("%d %s", i, strings.Repeat("y", 10<<10))
				mustAsk(t, w.client, http.MethodPost, "/insert"+noteURI, text)
				want += text
			}
			mustRead(t, w.client, want)
			w.lifeline.Close()
			if err := w.Wait(); err != nil {
				t.Errorf("%v; stderr: %s", err, w.stderr)
			}
			mustHold(t, filepath.Join(dir, "notes.phext"), want)
		})
	}
}

// mustRead reads what there is in every way.
func mustRead(t *testing.T, c *http.Client, notes string) {
	t.Helper()
	if got := mustAsk(t, c, http.MethodGet, "/select"+noteURI, ""); got != notes {
		t.Fatalf("the notes have %d bytes, want %d", len(got), len(notes))
	}
	if got := mustAsk(t, c, http.MethodGet, "/get?c=acme&p=other", ""); got != "whole" {
		t.Fatalf("the other document holds %.20q", got)
	}
	mustAsk(t, c, http.MethodGet, "/stats?c=acme", "")
}

// TestFaultsReachTheClient lets a call of a worker fail under a request: its
// answer is 503, or 507 where the disk is full, in words without a path; and
// the same request is carried out once the fault is gone, by the same worker or,
// where its log has failed, by the next one.
func TestFaultsReachTheClient(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to watch a process whose memory is closed to others")
	}
	type request struct{ method, uri, body string }
	var (
		small  = request{http.MethodPost, "/insert" + noteURI, "more"}
		large  = request{http.MethodPost, "/insert" + noteURI, strings.Repeat("large ", 20_000)}
		whole  = request{http.MethodPost, "/replace?c=acme&p=whole", strings.Repeat("whole ", 300_000)}
		remove = request{http.MethodPost, "/remove?c=acme&p=notes", ""}
		placed = request{http.MethodGet, "/get?c=acme&p=placed", ""}
	)
	for _, tt := range []struct {
		call    string
		errno   unix.Errno
		mode    faults.Mode
		request request
		status  int
		want    string // in the answer
		ends    bool   // the worker does
	}{
		{"fdatasync", unix.EIO, faults.Once, small, 503, "restarting", true},
		{"fdatasync", unix.EIO, faults.Lost, small, 503, "restarting", true},
		{"fdatasync", unix.ENOSPC, faults.Once, small, 507, "disk is full", true},
		{"pwrite", unix.EIO, faults.Once, small, 503, "restarting", true},
		{"pwrite", unix.ENOSPC, faults.Short, small, 507, "disk is full", true},
		{"pwrite", unix.EIO, faults.Once, large, 503, "restarting", true},
		{"pwrite", unix.ENOSPC, faults.Once, large, 507, "disk is full", false},
		{"fallocate", unix.ENOSPC, faults.Once, large, 507, "disk is full", false},
		{"fallocate", unix.EDQUOT, faults.Once, large, 507, "disk is full", false},
		{"fallocate", unix.EIO, faults.Once, large, 503, "restarting", true},
		{"fsync", unix.EIO, faults.Once, large, 503, "restarting", true},
		{"write", unix.EIO, faults.Once, whole, 503, "its log says why", false},
		{"write", unix.ENOSPC, faults.Short, whole, 507, "disk is full", false},
		{"sync_file_range", unix.EIO, faults.Once, whole, 503, "its log says why", false},
		{"mmap", unix.ENOMEM, faults.Once, whole, 503, "its log says why", false},
		{"openat", unix.ENOSPC, faults.Once, whole, 507, "disk is full", false},
		{"renameat", unix.EIO, faults.Once, whole, 503, "its log says why", false},
		{"fsync", unix.EIO, faults.Once, whole, 503, "restarting", true},
		{"mkdirat", unix.ENOSPC, faults.Once, remove, 507, "disk is full", false},
		{"fstatat", unix.EIO, faults.Once, small, 503, "cannot be read", false},
		{"openat", unix.EIO, faults.Once, placed, 503, "cannot be read", false},
		{"pread", unix.EIO, faults.Once, placed, 503, "cannot be read", false},

		{"fdatasync", unix.EINTR, faults.Once, small, 200, "", false},
		{"pwrite", 0, faults.Short, small, 200, "", false},
		{"write", unix.EINTR, faults.Once, whole, 200, "", false},
		{"renameat", unix.EINTR, faults.Once, whole, 200, "", false},
		{"mmap", unix.EINTR, faults.Once, whole, 200, "", false},
	} {
		f := faults.Fault{Call: tt.call, Nth: 1, Errno: tt.errno, Mode: tt.mode}
		t.Run(f.String(), func(t *testing.T) {
			dir := t.TempDir()
			mustWrite(t, "by hand", dir, "placed.phext")
			in, client := startFaulty(t, dir)
			mustAsk(t, client, http.MethodPost, "/insert"+noteURI, "kept ")
			in.Arm(dir, f)
			status, answer := ask(t, client, tt.request.method, tt.request.uri, tt.request.body)
			report := in.Disarm()
			if status != tt.status || !strings.Contains(answer, tt.want) {
				t.Errorf("%d %q, want %d with %q; calls: %v", status, answer, tt.status, tt.want, report.Counts)
			}
			if strings.Contains(answer, dir) || strings.Contains(answer, "\n") {
				t.Errorf("the answer is no single line without a path: %q", answer)
			}
			if report.Hits == 0 {
				t.Errorf("nothing failed; calls: %v", report.Counts)
			}
			if tt.ends {
				in.Wait()
				if code := in.Cmd.ProcessState.ExitCode(); code != 1 {
					t.Errorf("the worker ended with status %d, want 1", code)
				}
				if len(report.Repeated) > 0 {
					t.Errorf("synced again: %q", report.Repeated)
				}
				_, client = startFaulty(t, dir)
			}
			if got := mustAsk(t, client, http.MethodGet, "/select"+noteURI, ""); !strings.HasPrefix(got, "kept ") {
				t.Errorf("after the fault: %q", got)
			}
			mustAsk(t, client, tt.request.method, tt.request.uri, tt.request.body)
		})
	}
}

// startFaulty starts a worker whose calls can fail.
func startFaulty(t *testing.T, dir string) (*faults.Injector, *http.Client) {
	t.Helper()
	socket := filepath.Join(mustTempDir(t), "s")
	cmd := command(t, "serve", "-tenant", "acme", "-dir", dir, "-listen", socket)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := faults.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("stderr: %s", stderr.String())
		}
	})
	return in, awaitSocket(t, socket)
}
