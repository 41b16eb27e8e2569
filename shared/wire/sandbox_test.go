package wire

import "testing"

func TestParseSandbox(t *testing.T) {
	for _, bad := range []string{"", "Strict", "on", "none", "strict "} {
		if mode, err := ParseSandbox(bad); err == nil {
			t.Errorf("ParseSandbox(%q) = %q, want an error", bad, mode)
		}
	}
	for _, mode := range []Sandbox{SandboxDefault, SandboxStrict, SandboxOff} {
		if got, err := ParseSandbox(string(mode)); got != mode || err != nil {
			t.Errorf("ParseSandbox(%q) = %q, %v", mode, got, err)
		}
	}
}
