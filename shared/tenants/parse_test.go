package tenants

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// one returns a file of a single tenant, which begins at line 2, column 2 of
// the text, with the given members.
func one(members string) string {
	return `{"admin_key": "admin-key", "tenants": [` + "\n {" + members + "}\n]}"
}

// two returns a file of two tenants on lines 2 and 3.
func two(first, second string) string {
	return `{"admin_key": "admin-key", "tenants": [` + "\n {" + first + "},\n {" + second + "}\n]}"
}

func TestParseInvalid(t *testing.T) {
	const a = `"id": "a", "api_key": "key-of-a", "data_dir": "/d/a"`
	keyMessage := "must have 8 to 512 printable ASCII characters and no space"
	tests := []struct {
		name, text   string
		line, column int
		message      string
	}{
		{"empty", "", 1, 1, "file is not valid JSON: unexpected end of JSON input"},
		{"blank", " \n", 2, 1, "file is not valid JSON: unexpected end of JSON input"},
		{"cut", "{\n\"admin_key\": \"x", 2, 16, "file is not valid JSON: unexpected end of JSON input"},
		{"comment", "{\n  // no\n}", 2, 3, "file is not valid JSON: invalid character '/' looking for beginning of object key string"},
		{"trailing comma", "{\"ä\": 1,\n}", 2, 1, "file is not valid JSON: invalid character '}' looking for beginning of object key string"},
		{"syntax after wide characters", `{"äöü" 1}`, 1, 8, "file is not valid JSON: invalid character '1' after object key"},
		{"trailing data", "{}\n{}", 2, 1, "file is not valid JSON: invalid character '{' after top-level value"},
		{"byte order mark", "\ufeff{}", 1, 1, "file begins with a byte order mark: save it as UTF-8 without one"},
		{"Latin-1", "{\n \"\xe4\": 1}", 2, 3, "file is not valid UTF-8"},
		{"UTF-16", "{\x00\"\x00\xff", 1, 5, "file is not valid UTF-8"},
		{"replacement character is no fault, what follows is", "{\"\ufffd\": \xff}", 1, 7, "file is not valid UTF-8"},

		{"top level array", "[]", 1, 1, "top level must be an object with admin_key and tenants"},
		{"top level null", "\n null", 2, 2, "top level must be an object with admin_key and tenants"},
		{"no admin key", `{"tenants": []}`, 1, 1, "admin_key is missing"},
		{"admin key number", `{"admin_key": 12345678, "tenants": []}`, 1, 15, "admin_key must be a string, not a number"},
		{"admin key null", `{"admin_key": null, "tenants": []}`, 1, 15, "admin_key must be a string, not null"},
		{"admin key short", `{"admin_key": "1234567", "tenants": []}`, 1, 15, "admin_key " + keyMessage},
		{"names differ by case", `{"Admin_Key": "admin-key", "tenants": []}`, 1, 1, "admin_key is missing"},
		{"no tenants", `{"admin_key": "admin-key"}`, 1, 1, "tenants is missing: it may be an empty array"},
		{"tenants object", `{"admin_key": "admin-key", "tenants": {}}`, 1, 39, "tenants must be an array, not an object"},
		{"tenants null", `{"admin_key": "admin-key", "tenants": null}`, 1, 39, "tenants must be an array, not null"},
		{"name twice", "{\"admin_key\": \"admin-key\",\n \"tenants\": [], \"admin_key\": \"admin-key\"}", 2, 17, "top level has two members of this name"},
		{"name twice, once escaped", `{"admin_key": "admin-key", "tenants": [], "tenant\u0073": []}`, 1, 43, "top level has two members of this name"},
		{"unknown name twice", `{"x": 1, "x": 1}`, 1, 10, "top level has two members of this name"},

		{"tenant string", "{\"admin_key\": \"admin-key\", \"tenants\": [\n\"a\"]}", 2, 1, "tenants[0] must be an object, not a string"},
		{"tenant array", `{"admin_key": "admin-key", "tenants": [[]]}`, 1, 40, "tenants[0] must be an object, not an array"},
		{"tenant without anything", one(``), 2, 2, "tenants[0].id is missing"},
		{"tenant's name twice", one(a + `, "id": "a"`), 2, 57, "tenants[0] has two members of this name"},
		{"id boolean", one(`"id": true`), 2, 9, "tenants[0].id must be a string, not a boolean"},
		{"id empty", one(`"id": ""`), 2, 9, "tenants[0].id: tenant id is empty"},
		{"id upper case", one(`"id": "aB"`), 2, 9, "tenants[0].id: tenant id has a character other than a-z, 0-9 and hyphen at byte 2"},
		{"no key", one(`"id": "a", "data_dir": "/d/a"`), 2, 2, "tenants[0].api_key is missing"},
		{"key array", one(`"id": "a", "api_key": ["key-of-a"]`), 2, 25, "tenants[0].api_key must be a string, not an array"},
		{"key short", one(`"id": "a", "api_key": "1234567"`), 2, 25, "tenants[0].api_key " + keyMessage},
		{"key long", one(`"id": "a", "api_key": "` + strings.Repeat("k", 513) + `"`), 2, 25, "tenants[0].api_key " + keyMessage},
		{"key with space", one(`"id": "a", "api_key": "key of a"`), 2, 25, "tenants[0].api_key " + keyMessage},
		{"key with escaped control", one(`"id": "a", "api_key": "key-of-a\u0000"`), 2, 25, "tenants[0].api_key " + keyMessage},
		{"key not ASCII", one(`"id": "a", "api_key": "schlüssel"`), 2, 25, "tenants[0].api_key " + keyMessage},
		{"no data_dir", one(`"id": "a", "api_key": "key-of-a"`), 2, 2, "tenants[0].data_dir is missing"},
		{"data_dir relative", one(`"id": "a", "api_key": "key-of-a", "data_dir": "d/a"`), 2, 49, "tenants[0].data_dir is not an absolute path: write one such as /var/lib/sq/tenants/example"},
		{"data_dir empty", one(`"id": "a", "api_key": "key-of-a", "data_dir": ""`), 2, 49, "tenants[0].data_dir is not an absolute path: write one such as /var/lib/sq/tenants/example"},
		{"data_dir root", one(`"id": "a", "api_key": "key-of-a", "data_dir": "/"`), 2, 49, "tenants[0].data_dir is the root directory: give each tenant a directory of its own"},
		{"data_dir trailing slash", one(`"id": "a", "api_key": "key-of-a", "data_dir": "/d/a/"`), 2, 49, "tenants[0].data_dir is not a clean path: leave out . and .. parts, doubled and trailing slashes"},
		{"data_dir climbs", one(`"id": "a", "api_key": "key-of-a", "data_dir": "/d/../a"`), 2, 49, "tenants[0].data_dir is not a clean path: leave out . and .. parts, doubled and trailing slashes"},
		{"data_dir NUL", one(`"id": "a", "api_key": "key-of-a", "data_dir": "/d/a\u0000"`), 2, 49, "tenants[0].data_dir holds a control character"},
		{"quota string", one(a + `, "quota_mb": "5"`), 2, 69, quotaMessage},
		{"quota null", one(a + `, "quota_mb": null`), 2, 69, quotaMessage},
		{"quota negative", one(a + `, "quota_mb": -1`), 2, 69, quotaMessage},
		{"quota fraction", one(a + `, "quota_mb": 1.5`), 2, 69, quotaMessage},
		{"quota exponent", one(a + `, "quota_mb": 1e3`), 2, 69, quotaMessage},
		{"quota above", one(a + `, "quota_mb": 1048577`), 2, 69, quotaMessage},
		{"quota beyond 64 bits", one(a + `, "quota_mb": 99999999999999999999`), 2, 69, quotaMessage},
		{"enabled string", one(a + `, "enabled": "false"`), 2, 68, "tenants[0].enabled must be true or false, not a string"},
		{"enabled number", one(a + `, "enabled": 0`), 2, 68, "tenants[0].enabled must be true or false, not a number"},

		{"key is the admin's", one(`"id": "a", "api_key": "admin-key", "data_dir": "/d/a"`), 2, 25, "tenants[0].api_key is the same as admin_key"},
		{"key twice", two(a, `"id": "b", "api_key": "key-of-a", "data_dir": "/d/b"`), 3, 25, "tenants[1].api_key is the same as tenants[0].api_key"},
		{"id twice", two(a, `"id": "a", "api_key": "key-of-b", "data_dir": "/d/b"`), 3, 9, "tenants[1].id is the same as tenants[0].id"},
		{"data_dir twice", two(a, `"id": "b", "api_key": "key-of-b", "data_dir": "/d/a"`), 3, 49, "tenants[1].data_dir is the same as tenants[0].data_dir"},
		{"data_dir inside", two(a, `"id": "b", "api_key": "key-of-b", "data_dir": "/d/a/x/y"`), 3, 49, "tenants[1].data_dir lies inside tenants[0].data_dir"},
		{"data_dir around", two(a, `"id": "b", "api_key": "key-of-b", "data_dir": "/d"`), 2, 49, "tenants[0].data_dir lies inside tenants[1].data_dir"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, err := Parse([]byte(test.text))
			if r != nil {
				t.Error("Parse returned a registry")
			}
			var got *FileError
			if !errors.As(err, &got) {
				t.Fatalf("error is %v, want a *FileError", err)
			}
			if want := fmt.Sprintf("line %d, column %d: %s", test.line, test.column, test.message); got.Error() != want {
				t.Errorf("error is\n\t%v\nwant\n\t%s", got, want)
			}
		})
	}
}

const quotaMessage = "tenants[0].quota_mb must be a whole number from 0 (no quota) to 1048576"

func TestParse(t *testing.T) {
	r, err := Parse([]byte(`
	{"note": {"id": 1, "id": 2}, "admin_key": "pmb-admin-0", "tenants": [
		{"id": "b", "api_key": "tok-beta1", "data_dir": "/d/a-b", "quota_mb": 1048576, "enabled": true, "plan": [1]},
		{"enabled": false, "quota_mb": 0, "data_dir": "/d/a\u0020b", "api_key": "tok-\u0061lpha", "i\u0064": "0-a"},
		{"id": "c", "api_key": "!~\"\\/#$%", "data_dir": "/d/a"}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Tenant{
		{ID: "0-a", DataDir: "/d/a b", Enabled: false, KeyHash: HashKey("tok-alpha")},
		{ID: "b", DataDir: "/d/a-b", QuotaMB: 1048576, Enabled: true, KeyHash: HashKey("tok-beta1")},
		{ID: "c", DataDir: "/d/a", Enabled: true, KeyHash: HashKey(`!~"\/#$%`)},
	}
	if len(r.Tenants()) != len(want) {
		t.Fatalf("%d tenants, want %d", len(r.Tenants()), len(want))
	}
	for i, tenant := range r.Tenants() {
		if *tenant != want[i] {
			t.Errorf("tenant %d is %+v, want %+v", i, *tenant, want[i])
		}
		if r.ByID(tenant.ID) != tenant {
			t.Errorf("ByID(%q) is not the tenant", tenant.ID)
		}
	}
	for key, id := range map[string]string{"tok-alpha": "0-a", "tok-beta1": "b", `!~"\/#$%`: "c"} {
		if tenant, admin := r.ByKey(key); tenant == nil || tenant.ID != id || admin {
			t.Errorf("ByKey of %s's key is %v, %v", id, tenant, admin)
		}
	}
	if tenant, admin := r.ByKey("pmb-admin-0"); tenant != nil || !admin {
		t.Errorf("ByKey of the admin key is %v, %v", tenant, admin)
	}
	for _, key := range []string{"", "tok-alph", "tok-alphaa", "TOK-ALPHA", "pmb-admin-", strings.Repeat("k", 1<<20)} {
		if tenant, admin := r.ByKey(key); tenant != nil || admin {
			t.Errorf("ByKey of an unknown key is %v, %v", tenant, admin)
		}
	}
	for _, id := range []string{"", "0", "a", "bb", "z"} {
		if tenant := r.ByID(id); tenant != nil {
			t.Errorf("ByID(%q) is %v", id, tenant)
		}
	}
	if got := want[1].QuotaBytes(); got != 1<<40 {
		t.Errorf("quota of 1048576 MB is %d bytes, want %d", got, int64(1)<<40)
	}
}

// TestParseKeepsNoText loads a file with a large unknown member: if a tenant's
// strings were parts of the text, the text, and all keys with it, would stay.
func TestParseKeepsNoText(t *testing.T) {
	const size = 32 << 20
	before := heap()
	r := MustParse(t, `{"admin_key": "admin-key", "note": "`+strings.Repeat("n", size)+`", "tenants": [
		{"id": "a", "api_key": "key-of-a", "data_dir": "/d/a"}]}`)
	if grown := int64(heap()) - int64(before); grown > size/2 {
		t.Errorf("a registry of one tenant holds %d bytes: the file's text stays in memory", grown)
	}
	runtime.KeepAlive(r)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func MustParse(t testing.TB, text string) *Registry {
	t.Helper()
	r, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// secrets have no three characters in a row in common with any error text.
var secrets = []string{"Qz7#Xw9$Vy5%", "Jk3^Ub8*Gh6!", "Pf4?Rm2+Ls0="}

// leaks reports whether text holds any three characters in a row of a secret.
func leaks(text string) bool {
	for _, secret := range secrets {
		for i := range len(secret) - 2 {
			if strings.Contains(text, secret[i:i+3]) {
				return true
			}
		}
	}
	return false
}

// TestErrorsTellNoKey spoils a file in every place in many ways.
func TestErrorsTellNoKey(t *testing.T) {
	text := []byte(`{"admin_key": "` + secrets[0] + `", "tenants": [
{"id": "a", "api_key": "` + secrets[1] + `", "data_dir": "/d/a", "quota_mb": 5, "enabled": true},
{"id": "b", "api_key": "` + secrets[2] + `", "data_dir": "/d/b"}]}`)
	MustParse(t, string(text))
	if !leaks("key " + secrets[1][4:7]) {
		t.Fatal("leaks finds nothing")
	}
	faults := 0
	check := func(spoiled []byte) {
		_, err := Parse(spoiled)
		if err == nil {
			return
		}
		faults++
		if leaks(err.Error()) {
			t.Errorf("error tells a key: %v", err)
		}
	}
	for i := range text {
		check(text[:i])
		check(append(bytes.Clone(text[:i]), text[i+1:]...))
		for _, insert := range []string{`"`, `\`, "{", "}", "[", "]", ",", ":", " ", "\n", "\x00", "\xff", "1", "-", "null"} {
			check(slices.Concat(text[:i], []byte(insert), text[i:]))
			check(slices.Concat(text[:i], []byte(insert), text[i+1:]))
		}
		for _, secret := range secrets { // a key in the wrong place
			check(slices.Concat(text[:i], []byte(secret), text[i:]))
			check(slices.Concat(text[:i], []byte(`"`+secret+`"`), text[i:]))
		}
	}
	// A key as every value and every name.
	for _, value := range []string{`"a"`, `"/d/a"`, "5", "true", `"b"`, `"/d/b"`, `"id"`, `"api_key"`, `"data_dir"`, `"quota_mb"`, `"enabled"`, `"tenants"`, `"admin_key"`} {
		for _, secret := range secrets {
			check(bytes.ReplaceAll(text, []byte(value), []byte(`"`+secret+`"`)))
		}
	}
	if faults < 1000 {
		t.Errorf("only %d spoiled files were faulty", faults)
	}
}

// many returns a file of n tenants.
func many(n int) []byte {
	type tenant struct {
		ID      string `json:"id"`
		APIKey  string `json:"api_key"`
		DataDir string `json:"data_dir"`
		QuotaMB int    `json:"quota_mb"`
		Enabled bool   `json:"enabled"`
	}
	file := struct {
		AdminKey string   `json:"admin_key"`
		Tenants  []tenant `json:"tenants"`
	}{AdminKey: NewAdminKey()}
	for i := range n {
		id := fmt.Sprintf("tenant-%05d", i)
		file.Tenants = append(file.Tenants, tenant{id, NewKey(), "/var/lib/sq/tenants/" + id, 1000, true})
	}
	text, _ := json.MarshalIndent(file, "", "  ")
	return text
}

func BenchmarkParse10000(b *testing.B) {
	text := many(10000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkByKey(b *testing.B) {
	text := many(10000)
	key := gjson.GetBytes(text, "tenants.5000.api_key").String()
	r := MustParse(b, string(text))
	b.ReportAllocs()
	for b.Loop() {
		if t, _ := r.ByKey(key); t == nil {
			b.Fatal("tenant not found")
		}
	}
}

func TestCompareDirsIsAsWithASlashAfterEach(t *testing.T) {
	dirs := []string{"/a", "/a!", "/a-", "/a.b", "/a/", "/a/b", "/a/b/c", "/a0", "/aa", "/ab", "/ab/c", "/b"}
	for _, a := range dirs {
		for _, b := range dirs {
			if got, want := compareDirs(a, b), strings.Compare(a+"/", b+"/"); got != want {
				t.Errorf("of %s and %s: %d, want %d", a, b, got, want)
			}
		}
	}
}
