// Package tenants is who may use the service: the tenants, their keys, and the
// file they are kept in, tenants.json.
//
//	{"admin_key": "pmb-admin-…",
//	 "tenants": [{"id": "example", "api_key": "pmb-v1-…", "data_dir": "/var/lib/sq/tenants/example", "quota_mb": 1000, "enabled": true,
//	              "limits": {"requests_per_second": 50}}]}
//
// [Parse] turns the file's bytes into an immutable [Registry]; [File] keeps the
// registry of a file on disk in step with it and edits the file. Keys are known
// by their SHA-256 alone: no clear key stays in memory once a file is parsed,
// and none appears in an error.
package tenants

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxQuotaMB is the largest quota a tenant may have, in MiB: 1 TiB.
const MaxQuotaMB = 1 << 20

// maxIDBytes keeps an id a valid DNS label and a short directory name.
const maxIDBytes = 63

// Tenant is one entry of tenants.json. It is shared by all who hold a registry:
// read it, never change it.
type Tenant struct {
	ID      string   // [CheckID] says what it may be
	DataDir string   // absolute and clean; no other tenant's is equal, inside or around it
	QuotaMB int64    // in MiB (1 << 20 bytes), 0 to [MaxQuotaMB]; 0 means no quota
	Enabled bool     // false: the key is known but refused
	KeyHash [32]byte // [HashKey] of the API key
	Limits  Limits   // as the file has them: [Limits.Or] says what is in force
}

// QuotaBytes returns the quota in bytes, 0 for none. quota_mb counts MiB.
func (t *Tenant) QuotaBytes() int64 { return t.QuotaMB << 20 }

// CheckID says why id cannot name a tenant, in words fit for a client, or nil.
// An id is [a-z0-9][a-z0-9-]{0,62}: it becomes a directory, a socket's name and
// the first label of an address, so nothing that means something there is let
// in. The error does not quote id, which may be a key in the wrong place.
func CheckID(id string) error {
	if id == "" {
		return errors.New("tenant id is empty")
	}
	if len(id) > maxIDBytes {
		return fmt.Errorf("tenant id has %d bytes: at most %d are allowed", len(id), maxIDBytes)
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && i > 0:
		case c == '-':
			return errors.New("tenant id begins with a hyphen: begin with a letter or a digit")
		default:
			return fmt.Errorf("tenant id has a character other than a-z, 0-9 and hyphen at byte %d", i+1)
		}
	}
	return nil
}

// checkDataDir says why dir cannot be a tenant's data directory, without naming
// it. The check is of the name alone: two names that lead to one directory by a
// symlink are told apart by the lock that a worker takes in it.
func checkDataDir(dir string) error {
	switch {
	case !utf8.ValidString(dir):
		return errors.New("is not valid UTF-8")
	case strings.ContainsFunc(dir, unicode.IsControl):
		return errors.New("holds a control character")
	case !filepath.IsAbs(dir):
		return errors.New("is not an absolute path: write one such as /var/lib/sq/tenants/example")
	case filepath.Clean(dir) != dir:
		return errors.New("is not a clean path: leave out . and .. parts, doubled and trailing slashes")
	case dir == "/":
		return errors.New("is the root directory: give each tenant a directory of its own")
	}
	return nil
}

// holds reports whether the directory outer is inner or lies around it. Both
// have passed [checkDataDir].
func holds(outer, inner string) bool {
	rest, ok := strings.CutPrefix(inner, outer)
	return ok && (rest == "" || rest[0] == '/')
}

// compareDirs orders two directories as their names with a slash after each.
func compareDirs(a, b string) int {
	n := min(len(a), len(b))
	if a[:n] != b[:n] || len(a) == len(b) {
		return strings.Compare(a, b)
	}
	if len(a) < len(b) {
		return cmp.Or(cmp.Compare('/', b[n]), -1)
	}
	return cmp.Or(cmp.Compare(a[n], '/'), 1)
}
