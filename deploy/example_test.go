package deploy_test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/sqedge/sqedge/shared/tenants"
)

// Nobody can go into service with keys that everybody knows.
func TestExampleMustBeEdited(t *testing.T) {
	example := mustRead(t, "tenants.json.example")
	if !json.Valid([]byte(example)) {
		t.Error("tenants.json.example is not valid JSON")
	}
	if _, err := tenants.Parse([]byte(example)); err == nil {
		t.Error("tenants.json.example loads as it is")
	}
	// Nor with half of them.
	halfway := strings.Replace(example, "REPLACE ME: pmb-admin- and 32 hex digits", tenants.NewAdminKey(), 1)
	fault := (*tenants.FileError)(nil)
	if _, err := tenants.Parse([]byte(halfway)); !errors.As(err, &fault) || !strings.Contains(err.Error(), "api_key") {
		t.Errorf("with an admin key alone, the error is %v", err)
	}
}

// The command of README.md makes a tenants file that loads out of the example.
func TestReadmeConfigure(t *testing.T) {
	_, block, ok := strings.Cut(mustRead(t, "README.md"), "```sh\nkey() {")
	if !ok {
		t.Fatal("README.md has no block that defines key")
	}
	block, _, _ = strings.Cut("key() {"+block, "```")
	dir := t.TempDir()
	block = strings.NewReplacer(
		"sudo ", "", "-o sq -g sq ", "",
		"deploy/tenants", "tenants",
		"/etc/sq", dir,
		"/var/lib/sq", dir,
	).Replace(block)
	seen := map[string]bool{}
	for range 2 {
		out, err := exec.Command("bash", "-e", "-o", "pipefail", "-c", block).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Fatalf("%s\n%v: %s", block, err, out)
		}
		content := mustRead(t, dir+"/tenants.json")
		registry, err := tenants.Parse([]byte(content))
		if err != nil {
			t.Fatal(err)
		}
		if registry.ByID("example") == nil {
			t.Error("there is no tenant example")
		}
		key := keyPattern.FindString(content)
		if key == "" || seen[key] {
			t.Error("the key is not a new one each time")
		}
		seen[key] = true
	}
}
