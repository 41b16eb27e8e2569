package tenants

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAddRefuses(t *testing.T) {
	f := MustCreate(t, file("a", "b"))
	before := MustRead(t, f.path)
	tests := []struct {
		name    string
		tenant  NewTenant
		is      error
		message string
	}{
		{"no id", NewTenant{"", "/d/c", 0}, ErrInvalid, "add tenant: not a valid tenant: tenant id is empty"},
		{"bad id", NewTenant{"../c", "/d/c", 0}, ErrInvalid, "add tenant: not a valid tenant: tenant id has a character other than a-z, 0-9 and hyphen at byte 1"},
		{"no directory", NewTenant{"c", "", 0}, ErrInvalid, "add tenant: not a valid tenant: data directory is not an absolute path: write one such as /var/lib/sq/tenants/example"},
		{"directory not UTF-8", NewTenant{"c", "/d/\xff", 0}, ErrInvalid, "add tenant: not a valid tenant: data directory is not valid UTF-8"},
		{"quota negative", NewTenant{"c", "/d/c", -1}, ErrInvalid, "add tenant: not a valid tenant: quota must be from 0 (none) to 1048576 MB"},
		{"quota large", NewTenant{"c", "/d/c", MaxQuotaMB + 1}, ErrInvalid, "add tenant: not a valid tenant: quota must be from 0 (none) to 1048576 MB"},
		{"id taken", NewTenant{"a", "/d/c", 0}, ErrExists, "add tenant: a tenant of this id exists already"},
		{"directory taken", NewTenant{"c", "/d/b", 0}, ErrDirTaken, "add tenant: the data directory is, holds or lies inside another tenant's"},
		{"directory around", NewTenant{"c", "/d", 0}, ErrDirTaken, "add tenant: the data directory is, holds or lies inside another tenant's"},
		{"directory inside", NewTenant{"c", "/d/b/c", 0}, ErrDirTaken, "add tenant: the data directory is, holds or lies inside another tenant's"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key, tenant, err := f.Add(test.tenant)
			if key != "" || tenant != nil || !errors.Is(err, test.is) || err.Error() != test.message {
				t.Errorf("Add returned %q, %v, %v\nwant %s", key, tenant, err, test.message)
			}
		})
	}
	if _, err := f.Remove("c"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Remove of an unknown tenant: %v", err)
	}
	if MustRead(t, f.path) != before {
		t.Error("a refused edit changed the file")
	}
}

func TestAddAndRemoveAreInForceOnReturn(t *testing.T) {
	w := MustWatch(t, MustCreate(t, file("a")), true)
	key, tenant, err := w.Add(NewTenant{"customer-001", "/d/<customer> & \"001\"", 500})
	MustDo(t, err)
	want := Tenant{ID: "customer-001", DataDir: "/d/<customer> & \"001\"", QuotaMB: 500, Enabled: true, KeyHash: HashKey(key)}
	if *tenant != want {
		t.Errorf("Add returned %+v, want %+v", *tenant, want)
	}
	if got, admin := w.Registry().ByKey(key); got != tenant || admin {
		t.Error("the new key is not in force")
	}
	if got := MustOpen(t, w.path).Registry().ByID("customer-001"); got == nil || *got != want {
		t.Errorf("the file has %+v, want %+v", got, want)
	}
	if len(w.changes) != 1 {
		t.Fatalf("onChange was called %d times before Add returned", len(w.changes))
	}
	if change := <-w.changes; change[0].ByID("customer-001") != nil || change[1] != w.Registry() {
		t.Error("onChange was not told of the new tenant")
	}
	if status := w.Status(); status.Tenants != 2 {
		t.Errorf("status has %d tenants", status.Tenants)
	}

	removed, err := w.Remove("customer-001")
	MustDo(t, err)
	if *removed != want {
		t.Errorf("Remove returned %+v, want %+v", *removed, want)
	}
	if got, _ := w.Registry().ByKey(key); got != nil {
		t.Error("the removed tenant's key is in force")
	}
	if len(w.changes) != 1 {
		t.Fatalf("onChange was called %d times before Remove returned", len(w.changes))
	}
	if change := <-w.changes; change[0].ByID("customer-001") == nil || change[1] != w.Registry() {
		t.Error("onChange was not told of the removal")
	}
	if MustRead(t, w.path) != file("a") {
		t.Error("adding and removing a tenant changed the file")
	}
}

// TestEditsKeepTheText checks whole files: NEW stands for the new tenant's text.
func TestEditsKeepTheText(t *testing.T) {
	const (
		a = `{"id": "a",   "api_key":"key-of-a", "data_dir": "/d/a", "plan": {"tenants": [1, 2]}}`
		b = `{ "data_dir": "/d/b", "api_key": "key-of-b", "i\u0064": "b" }`
	)
	tests := []struct{ name, before, after string }{
		{"one line",
			`{"admin_key": "admin-key", "tenants": [` + a + `, ` + b + `]}`,
			`{"admin_key": "admin-key", "tenants": [` + a + `, ` + b + `, NEW]}`},
		{"minified",
			`{"tenants":[` + a + `,` + b + `],"admin_key":"admin-key"}`,
			`{"tenants":[` + a + `,` + b + `,NEW],"admin_key":"admin-key"}`},
		{"lines, tabs and CRLF",
			"{\r\n\t\"tenants\": [\r\n\t\t" + a + ",\r\n\t\t" + b + "\r\n\t],\r\n\t\"admin_key\": \"admin-key\",\r\n\t\"x\": 1e2\r\n}",
			"{\r\n\t\"tenants\": [\r\n\t\t" + a + ",\r\n\t\t" + b + ",\r\n\t\tNEW\r\n\t],\r\n\t\"admin_key\": \"admin-key\",\r\n\t\"x\": 1e2\r\n}"},
		{"escaped names and look-alikes before",
			`{"Tenants": [3], "x": {"tenants": []}, "\"tenants\": [": "]", "admin_key": "admin-key", "ten\u0061nts": [` + a + `]}` + "\n\n",
			`{"Tenants": [3], "x": {"tenants": []}, "\"tenants\": [": "]", "admin_key": "admin-key", "ten\u0061nts": [` + a + `NEXT]}` + "\n\n"},
		{"none yet",
			`{"admin_key": "admin-key", "tenants": [ ], "x": []}`,
			`{"admin_key": "admin-key", "tenants": [` + "\n    NEW\n  " + `], "x": []}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := MustCreate(t, test.before)
			key, _, err := f.Add(NewTenant{"new", "/d/new", 5})
			MustDo(t, err)
			entry := `{"id": "new", "api_key": "` + key + `", "data_dir": "/d/new", "quota_mb": 5, "enabled": true}`
			after := strings.NewReplacer("NEXT", ","+entry, "NEW", entry).Replace(test.after)
			if got := MustRead(t, f.path); got != after {
				t.Errorf("file after Add is\n%s\nwant\n%s", got, after)
			}
			if f.Registry().ByID("a") == nil {
				return
			}
			// Each tenant can go, first or last, and takes nothing else with it.
			_, err = f.Remove("a")
			MustDo(t, err)
			got := MustRead(t, f.path)
			rest := strings.Replace(after, a, "", 1)
			if squeeze(got) != squeeze(rest) {
				t.Errorf("file after Remove is\n%s\nwant\n%s", got, rest)
			}
			_, err = f.Remove("new")
			MustDo(t, err)
			if got := f.Registry().ByID("b"); strings.Contains(test.before, b) != (got != nil) {
				t.Error("Remove took another tenant")
			}
		})
	}
}

// squeeze drops what separates the elements of an array.
func squeeze(text string) string {
	return strings.NewReplacer(",", "", " ", "", "\t", "", "\r", "", "\n", "").Replace(text)
}

func TestEditsKeepHandEdits(t *testing.T) {
	f := MustCreate(t, file("a"))
	MustReplace(t, f.path, strings.Replace(file("a", "by-hand"), "{", `{"note": "kept",`, 1))
	_, _, err := f.Add(NewTenant{"c", "/d/c", 0})
	MustDo(t, err)
	if text := MustRead(t, f.path); !strings.Contains(text, `"note": "kept"`) || f.Registry().ByID("by-hand") == nil || f.Registry().ByID("c") == nil {
		t.Errorf("the hand's edit before Add is lost:\n%s", text)
	}

	// A save after the edit has read the file makes the edit start over.
	runs := 0
	_, err = f.edit(func(data []byte, r *Registry) ([]byte, error) {
		if runs++; runs <= 3 {
			MustReplace(t, f.path, file("a", fmt.Sprintf("by-hand-%d", runs)))
		}
		return deleteTenant(data, "a")
	})
	MustDo(t, err)
	if runs != 4 || !has(f.Registry(), "by-hand-3") {
		t.Errorf("after %d runs the file is\n%s", runs, MustRead(t, f.path))
	}

	// Without end it gives up and leaves the last save as it is.
	_, err = f.edit(func(data []byte, r *Registry) ([]byte, error) {
		runs++
		MustReplace(t, f.path, file("b", fmt.Sprintf("by-hand-%d", runs)))
		return []byte(file("lost")), nil
	})
	if !errors.Is(err, errChanged) || MustRead(t, f.path) != file("b", fmt.Sprintf("by-hand-%d", runs)) {
		t.Errorf("edit of an ever changing file: %v", err)
	}
	mustBeAlone(t, f.path)
}

func TestEditOfBadFileIsRefused(t *testing.T) {
	f := MustCreate(t, file("a"))
	good := f.Registry()
	bad := file("a") + secrets[0]
	MustWrite(t, f.path, bad)
	_, _, addErr := f.Add(NewTenant{"c", "/d/c", 0})
	_, removeErr := f.Remove("a")
	for _, err := range []error{addErr, removeErr} {
		if err == nil || !strings.Contains(err.Error(), "was left as it is, mend it first: "+f.path+":7:1: ") || leaks(err.Error()) {
			t.Errorf("edit of a bad file: %v", err)
		}
	}
	if MustRead(t, f.path) != bad || f.Registry() != good {
		t.Error("the edit of a bad file changed something")
	}
	MustDo(t, os.Remove(f.path))
	if _, _, err := f.Add(NewTenant{"c", "/d/c", 0}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("edit of a missing file: %v", err)
	}
}

func TestEditKeepsModeAndOwner(t *testing.T) {
	f := MustCreate(t, file("a"))
	for _, mode := range []os.FileMode{0o600, 0o640, 0o664, 0o604} {
		MustDo(t, os.Chmod(f.path, mode))
		_, _, err := f.Add(NewTenant{fmt.Sprintf("mode-%o", mode), fmt.Sprintf("/d/mode-%o", mode), 0})
		MustDo(t, err)
		info, err := os.Stat(f.path)
		MustDo(t, err)
		if info.Mode() != mode {
			t.Errorf("mode is %v, was %v", info.Mode(), mode)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to another owner")
	}
	MustDo(t, os.Chown(f.path, 12345, 54321))
	_, err := f.Remove("a")
	MustDo(t, err)
	for _, path := range []string{f.path, besides(f.path, ".lock")} {
		info, err := os.Stat(path)
		MustDo(t, err)
		if uid, gid := owner(info); uid != 12345 || gid != 54321 {
			t.Errorf("owner of %s is %d:%d, want 12345:54321", path, uid, gid)
		}
	}
}

func TestEditWritesThroughSymlink(t *testing.T) {
	dir := t.TempDir()
	makeLink(t, dir, file("a"))
	f := MustOpen(t, dir+"/tenants.json")
	_, _, err := f.Add(NewTenant{"c", "/d/c", 0})
	MustDo(t, err)
	if target, err := os.Readlink(f.path); err != nil || target != "real/conf.json" {
		t.Errorf("the symlink leads to %q, %v", target, err)
	}
	if r := MustOpen(t, dir+"/real/conf.json").Registry(); r.ByID("c") == nil {
		t.Error("the symlink's target is unchanged")
	}
	mustBeAlone(t, f.path)
	mustBeAlone(t, dir+"/real/conf.json")
}

// A crash leaves a temporary file behind; the next edit uses its name, and never
// follows what was planted there.
func TestEditClearsWhatACrashLeft(t *testing.T) {
	f := MustCreate(t, file("a"))
	canary := filepath.Join(t.TempDir(), "canary")
	MustWrite(t, canary, "untouched")
	MustDo(t, os.Symlink(canary, besides(f.path, ".tmp")))
	_, _, err := f.Add(NewTenant{"c", "/d/c", 0})
	MustDo(t, err)
	mustBeAlone(t, f.path)

	MustDo(t, os.Remove(besides(f.path, ".lock")))
	MustDo(t, os.Symlink(canary+"-lock", besides(f.path, ".lock")))
	if _, err := f.Remove("c"); err == nil {
		t.Error("a symlink was taken for the lock")
	}
	if _, err := os.Lstat(canary + "-lock"); err == nil || MustRead(t, canary) != "untouched" {
		t.Error("a planted symlink was followed")
	}
}

// TestEditNeverWritesInPlace reads through a file opened before the edit: it
// must go on to show the old content, as to any reader in the middle of it.
func TestEditNeverWritesInPlace(t *testing.T) {
	f := MustCreate(t, file("a"))
	open, err := os.Open(f.path)
	MustDo(t, err)
	defer open.Close()
	_, _, err = f.Add(NewTenant{"c", "/d/c", 0})
	MustDo(t, err)
	if text, err := io.ReadAll(open); err != nil || string(text) != file("a") {
		t.Errorf("a reader of the old file sees\n%s%v", text, err)
	}
}

// mustBeAlone checks that nothing is left beside the file at path but its lock.
func mustBeAlone(t *testing.T, path string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	MustDo(t, err)
	if i := slices.IndexFunc(names, func(name string) bool { return name != besides(path, ".lock") }); i >= 0 {
		t.Errorf("%s is left over", names[i])
	}
}
