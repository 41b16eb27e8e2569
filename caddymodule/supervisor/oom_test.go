package supervisor

import (
	"os/exec"
	"strings"
	"testing"
)

// A process that the kernel ended for want of memory is told from one that was
// killed otherwise, and from one that the edge killed.
func TestOutOfMemory(t *testing.T) {
	for _, tt := range []struct {
		oom, killed bool
		want        string
	}{{true, false, exitOOM}, {true, true, exitKilled}, {false, false, exitCrashed}} {
		p := &process{cmd: exec.Command("sh", "-c", "kill -9 $$"), oom: tt.oom}
		p.killed.Store(tt.killed)
		if err := p.cmd.Run(); err == nil {
			t.Fatal("it was not killed")
		}
		if got := p.exitReason(); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
		if got := p.obituary(); strings.Contains(got, "memory.max") != tt.oom {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
