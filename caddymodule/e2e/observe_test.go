package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// Workers returns the pids of the edge's workers by tenant, as the kernel lists
// them, those included whose edge has ended. Of a tenant's id it shows 12 bytes.
func (e *Edge) Workers() map[string][]int {
	e.t.Helper()
	workers := make(map[string][]int)
	for p, name := range e.processes() {
		if tenant, ok := strings.CutPrefix(name, "sq:"); ok {
			workers[tenant] = append(workers[tenant], p.pid)
		}
	}
	return workers
}

// process tells a process from those that have had its id before.
type process struct {
	pid   int
	start string
}

// processes returns the names of those that the edge has started, spare workers
// included.
func (e *Edge) processes() map[process]string {
	e.t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/stat")
	must(e.t, err)
	children := make(map[process]string)
	for _, path := range found {
		stat, _ := os.ReadFile(path) // it may have ended meanwhile
		head, rest, _ := strings.Cut(string(stat), ") ")
		id, name, _ := strings.Cut(head, " (")
		fields := strings.Fields(rest) // from the third of proc_pid_stat(5) on
		if len(fields) < 20 || fields[0] == "Z" {
			continue
		}
		pid, _ := strconv.Atoi(id)
		p := process{pid, fields[19]}
		if e.orphans[p] || fields[1] == strconv.Itoa(e.cmd.Process.Pid) {
			children[p] = name
		}
	}
	return children
}

// Worker returns the pid of the tenant's one worker.
func (e *Edge) Worker(tenant string) int {
	e.t.Helper()
	pids := e.Workers()[tenant]
	if len(pids) != 1 {
		e.t.Fatalf("tenant %s has the workers %v, want one", tenant, pids)
	}
	return pids[0]
}

// NoWorkers waits until all of the edge's workers are gone, and the spare ones, too,
// where the edge has ended.
func (e *Edge) NoWorkers() {
	e.t.Helper()
	Eventually(e.t, "all workers are gone", func() error {
		if left := e.Workers(); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		for p, name := range e.processes() {
			if e.orphans[p] {
				return fmt.Errorf("left: %d, %s", p.pid, name)
			}
		}
		return nil
	})
}

// KillWorkers ends the workers that run with SIGKILL.
func (e *Edge) KillWorkers() {
	for _, pids := range e.Workers() {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// stop stops a worker, so that it answers nothing until it is continued. The
// signal is on its way for a moment after it was sent.
func stop(t *testing.T, pid int) {
	t.Helper()
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	Eventually(t, "all threads of the worker have stopped", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, path := range threads {
			stat, _ := os.ReadFile(path)
			if _, state, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(state, "T") {
				return fmt.Errorf("%s says %q", path, stat)
			}
		}
		return err
	})
}

// edit edits the edge's Caddyfile, each old text to the new one after it.
func (e *Edge) edit(oldnew ...string) (path string) {
	e.t.Helper()
	path = filepath.Join(e.dir, "Caddyfile")
	data, err := os.ReadFile(path)
	must(e.t, err)
	text := string(data)
	for i := 0; i < len(oldnew); i += 2 {
		if strings.Count(text, oldnew[i]) != 1 {
			e.t.Fatalf("the Caddyfile holds %q %d times, want once", oldnew[i], strings.Count(text, oldnew[i]))
		}
		text = strings.Replace(text, oldnew[i], oldnew[i+1], 1)
	}
	must(e.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// Reload edits the edge's Caddyfile, each old text to the new one after it, and
// has the running edge take it.
func (e *Edge) Reload(oldnew ...string) {
	e.t.Helper()
	path := e.edit(oldnew...)
	if out, err := e.Caddy("reload", "--config", path); err != nil {
		e.t.Fatalf("caddy reload: %v\n%s", err, out)
	}
	// A connection made before may bring one more request under the old options.
	e.client.CloseIdleConnections()
}

// ReloadForced has the running edge take the Caddyfile again, unchanged.
func (e *Edge) ReloadForced() {
	e.t.Helper()
	if out, err := e.Caddy("reload", "--force", "--config", filepath.Join(e.dir, "Caddyfile")); err != nil {
		e.t.Fatalf("caddy reload: %v\n%s", err, out)
	}
}

// Stats is what the admin API says of a tenant.
type Stats struct {
	StorageBytes int64   `json:"storage_bytes"`
	StorageMB    float64 `json:"storage_mb"`
	QuotaMB      int64   `json:"quota_mb"`
	QuotaUsed    float64 `json:"quota_used"`
	Enabled      bool    `json:"enabled"`
	Documents    int     `json:"documents"`
	Scrolls      int64   `json:"scrolls"`
	Today        uint64  `json:"api_calls_today"`
	Total        uint64  `json:"api_calls_total"`
	LastActive   string  `json:"last_active"`
	Worker       struct {
		State  string  `json:"state"`
		PID    int     `json:"pid"`
		Uptime float64 `json:"uptime_seconds"`
		Memory int64   `json:"memory_bytes"`
		Starts int     `json:"starts"`
	} `json:"worker"`
}

// Stats asks for a tenant's numbers.
func (e *Edge) Stats(tenant string) Stats {
	e.t.Helper()
	var stats Stats
	e.Admin("GET", "tenants/"+tenant+"/stats", "", 200, &stats)
	return stats
}

// Admin calls the admin API, checks the status and reads the JSON answer.
func (e *Edge) Admin(method, path, body string, status int, into any) {
	e.t.Helper()
	got := e.Do(adminKey, method, "/api/v2/admin/"+path, body)
	if got.Status != status {
		e.t.Fatalf("admin %s %s: %d %q, want %d", method, path, got.Status, clip(got.Body), status)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(got.Body), into); err != nil {
			e.t.Fatalf("admin %s %s: %v in %q", method, path, err, clip(got.Body))
		}
	}
}

// Metric returns the value of one series, named as in the exposition.
func (e *Edge) Metric(series string) float64 {
	e.t.Helper()
	got := e.Do(adminKey, "GET", "/api/v2/metrics", "")
	for line := range strings.Lines(got.Body) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			must(e.t, err)
			return v
		}
	}
	e.t.Fatalf("the metrics (%d) lack %s", got.Status, series)
	return 0
}

// Exported reads a whole document through the API, by coordinate.
func (e *Edge) Exported(key, document string) map[string]string {
	e.t.Helper()
	got := e.Do(key, "GET", "/json-export?p="+document, "")
	var list []struct{ Coord, Scroll string }
	if err := json.Unmarshal([]byte(got.Body), &list); got.Status != 200 || err != nil {
		e.t.Fatalf("json-export of %s: %d, %v, %q", document, got.Status, err, clip(got.Body))
	}
	scrolls := make(map[string]string)
	for _, s := range list {
		scrolls[s.Coord] = s.Scroll
	}
	return scrolls
}

// OnDisk reads a tenant's .phext files, each of which must be a valid document,
// as name to coordinate to text.
func OnDisk(t *testing.T, dir string) map[string]map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.phext"))
	must(t, err)
	documents := make(map[string]map[string]string)
	for _, path := range files {
		data, err := os.ReadFile(path)
		must(t, err)
		scrolls, err := phext.Scrolls(data)
		if err != nil {
			t.Fatalf("%s is no valid phext: %v", path, err)
		}
		document := make(map[string]string)
		for _, s := range scrolls {
			document[s.At.String()] = string(s.Text)
		}
		documents[strings.TrimSuffix(filepath.Base(path), ".phext")] = document
	}
	return documents
}

// StoredBytes adds up the sizes of a tenant's .phext files.
func StoredBytes(t *testing.T, dir string) (total int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.phext"))
	must(t, err)
	for _, path := range files {
		info, err := os.Stat(path)
		must(t, err)
		total += info.Size()
	}
	return total
}
