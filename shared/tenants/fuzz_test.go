package tenants

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "[", "\ufeff", "null", `{"admin_key": "admin-key", "tenants": []}`,
		one(`"id": "a", "api_key": "key-of-a", "data_dir": "/d/a", "quota_mb": 5, "enabled": false`),
		two(`"id": "a", "api_key": "key-of-a", "data_dir": "/d/a"`, `"id": "b", "api_key": "key-of-b", "data_dir": "/d/b", "x": {"y": [1, "]"]}`),
		one(`"i\u0064": "\u0061", "api_key": "\\\"\/key!", "data_dir": "/\ud83d\ude00"`),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse(data)
		if err != nil {
			var fault *FileError
			if !errors.As(err, &fault) || fault.Line < 1 || fault.Column < 1 || r != nil {
				t.Fatalf("Parse returned %v, %#v", r, err)
			}
			if lines := 1 + bytes.Count(data, []byte("\n")); fault.Line > lines {
				t.Fatalf("fault at line %d of %d", fault.Line, lines)
			}
			return
		}
		// Whatever loads can be edited, and an edit does what it says.
		const id, dir = "added-by-the-test", "/added-by-the-test"
		if r.ByID(id) != nil {
			return
		}
		for _, tenant := range r.Tenants() {
			if err := CheckID(tenant.ID); err != nil {
				t.Fatal(err)
			}
			if holds(tenant.DataDir, dir) || holds(dir, tenant.DataDir) {
				return
			}
		}
		added := appendTenant(data, `{"id": "`+id+`", "api_key": "`+NewKey()+`", "data_dir": "`+dir+`"}`)
		r2, err := Parse(added)
		if err != nil || len(r2.Tenants()) != len(r.Tenants())+1 || r2.ByID(id) == nil {
			t.Fatalf("after adding a tenant: %v\n%s", err, added)
		}
		removed, err := deleteTenant(added, id)
		if err != nil {
			t.Fatal(err)
		}
		r3, err := Parse(removed)
		if err != nil || !r3.equal(r) {
			t.Fatalf("after removing it: %v\n%s", err, removed)
		}
		if len(r.Tenants()) > 0 && !bytes.Equal(removed, data) {
			t.Fatalf("adding and removing a tenant changed\n%s\nto\n%s", data, removed)
		}
	})
}
