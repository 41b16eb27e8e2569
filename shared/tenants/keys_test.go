package tenants

import (
	"regexp"
	"strings"
	"testing"
)

func TestCheckID(t *testing.T) {
	for _, id := range []string{
		"", "-", "-a", "A", "aB", "a_b", "a.b", "a/b", "..", "a b", "a\n", "a\x00", "ä", "٣", "a\xff",
		strings.Repeat("a", 64),
	} {
		if CheckID(id) == nil {
			t.Errorf("CheckID(%q) allows it", id)
		}
	}
	for _, id := range []string{"a", "0", "customer-001", "a-", "a--b", strings.Repeat("a", 63)} {
		if err := CheckID(id); err != nil {
			t.Errorf("CheckID(%q): %v", id, err)
		}
	}
}

func TestNewKeys(t *testing.T) {
	seen := map[string]bool{}
	for pattern, generate := range map[string]func() string{
		`^pmb-v1-[0-9a-f]{32}$`:    NewKey,
		`^pmb-admin-[0-9a-f]{32}$`: NewAdminKey,
	} {
		for range 100 {
			key := generate()
			if !regexp.MustCompile(pattern).MatchString(key) {
				t.Fatalf("key does not match %s", pattern)
			}
			if err := checkKey(key); err != nil {
				t.Fatal(err)
			}
			if seen[key] {
				t.Fatal("a key came twice")
			}
			seen[key] = true
		}
	}
}
