package main

import (
	"fmt"
	"os"
	"regexp"
	"testing"
)

// No core file, and files of its own that nobody else may read.
func TestHardened(t *testing.T) {
	dir := t.TempDir()
	w := startWorker(t, dir)
	mustAsk(t, w.client, "POST", "/insert"+noteURI, "secret")
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", w.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("core files are allowed:\n%s", limits)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^Umask:\s+0077$`).Match(status) {
		t.Errorf("umask is not 0077:\n%s", status)
	}
	w.lifeline.Close()
	if err := w.Wait(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
}
