package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// TestDensity goes up a ladder of two small rungs with the real binaries. It says
// nothing of how long anything took.
func TestDensity(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("skipped: what a worker takes is in Linux's /proc, for root alone")
	}
	// Copies, so that its processes are known by them.
	bin := t.TempDir()
	for _, name := range []string{"caddy", "sq-worker"} {
		data, err := os.ReadFile(filepath.Join("../../bin", name))
		if err != nil {
			t.Fatalf("bin/%s is missing: run ./xcaddy.sh build", name)
		}
		if err := os.WriteFile(filepath.Join(bin, name), data, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// Not a test's own directory, whose name would be too long for sockets.
	dir, err := os.MkdirTemp("", "sqd")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	t.Setenv("TMPDIR", dir)
	t.Setenv("SQ_BENCH_OPTIONS", "max_workers 6")
	var out bytes.Buffer
	err = density(ladder{
		rungs:   []rung{{8, []int{0, 3}}, {24, []int{0, 5}}},
		scrapes: 1, reloads: 1, cold: 2, crowds: 1, crowd: 4, atOnce: 12,
	}, bin, &out)
	if err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		`(?m)^ +8 +0 .*\n +8 +3 .*\n +24 +0 .*\n +24 +5 `, // the edge
		`12 tenants woken at once \(at most 6 workers, by max_workers, and 6 spare ones;`,
		`failed: 0 \(bar 0: met\)`,
		`(all bars met|\d+ bars MISSED)`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the ladder lacks %s", want)
		}
	}
	for line := range strings.Lines(text) {
		if cells := strings.Fields(line); len(cells) > 10 && cells[1] == "0" && cells[10] != "0" && !strings.Contains(line, "MISSED") {
			t.Errorf("tenants that nobody asked for have series: %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range programs {
		if program, _ := os.Readlink(path); strings.HasPrefix(program, bin) {
			left = append(left, filepath.Dir(path))
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
}
