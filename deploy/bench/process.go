package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// process is what a process takes.
type process struct {
	private     int64 // bytes of memory that are its own, resident
	heap        int64 // bytes in use on Go's heap after a collection; 0 where not asked for
	threads     int
	descriptors int
}

// worker is an entry of the admin API's list.
type worker struct {
	Tenant string `json:"tenant"`
	PID    int    `json:"pid"`
}

// workers returns those that have a process.
func (b *denseBed) workers() ([]worker, error) {
	text, err := b.admin("GET", "/api/v2/admin/workers")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Workers []worker `json:"workers"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	var live []worker
	for _, w := range answer.Workers {
		if w.PID != 0 {
			live = append(live, w)
		}
	}
	return live, nil
}

func (b *denseBed) workerProcesses() ([]process, error) {
	workers, err := b.workers()
	if err != nil {
		return nil, err
	}
	processes := make([]process, 0, len(workers))
	for _, w := range workers {
		p, err := readProcess(w.PID)
		if err != nil {
			return nil, err
		}
		processes = append(processes, p)
	}
	return processes, nil
}

// edgeProcess returns what the edge takes after collections, and how many
// goroutines it has.
func (b *denseBed) edgeProcess() (p process, goroutines int, err error) {
	var text []byte
	for range 2 { // what is pooled outlives one
		if text, err = b.debug("heap?gc=1&debug=1"); err != nil {
			return p, 0, err
		}
	}
	heap, err := numberAfter(text, "# HeapAlloc = ")
	if err != nil {
		return p, 0, err
	}
	if p, err = readProcess(b.caddy.Process.Pid); err != nil {
		return p, 0, err
	}
	p.heap = int64(heap)
	if text, err = b.debug("goroutine?debug=1"); err != nil {
		return p, 0, err
	}
	goroutines, err = numberAfter(text, "goroutine profile: total ")
	return p, goroutines, err
}

// debug asks Caddy's own admin endpoint for a profile.
func (b *testbed) debug(profile string) ([]byte, error) {
	client := b.debugger()
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://edge/debug/pprof/" + profile)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

func numberAfter(text []byte, name string) (int, error) {
	_, rest, ok := bytes.Cut(text, []byte(name))
	if !ok {
		return 0, fmt.Errorf("the edge's profile lacks %q", name)
	}
	digits, _, _ := bytes.Cut(rest, []byte("\n"))
	return strconv.Atoi(string(digits))
}

// watchEdge returns the most that the edge has of anything until done.
func (b *denseBed) watchEdge(done <-chan struct{}) (most process) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if p, err := readProcess(b.caddy.Process.Pid); err == nil {
			most = process{
				private:     max(most.private, p.private),
				threads:     max(most.threads, p.threads),
				descriptors: max(most.descriptors, p.descriptors),
			}
		}
		select {
		case <-done:
			return most
		case <-tick.C:
		}
	}
}

// readProcess reads what /proc says of a process. A worker is not dumpable, so
// that for most of it only root may ask.
func readProcess(pid int) (p process, err error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	rollup, err := os.ReadFile(dir + "smaps_rollup")
	if errors.Is(err, fs.ErrPermission) {
		return p, fmt.Errorf("%w: the workers are closed to all but root: run this as root", err)
	}
	if err != nil {
		return p, err
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return p, err
	}
	descriptors, err := os.ReadDir(dir + "fd")
	if err != nil {
		return p, err
	}
	p.private = (field(rollup, "Private_Clean:") + field(rollup, "Private_Dirty:")) << 10
	p.threads = int(field(status, "Threads:"))
	p.descriptors = len(descriptors)
	return p, nil
}

// field returns the number behind a name in one of /proc's tables.
func field(text []byte, name string) int64 {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}
