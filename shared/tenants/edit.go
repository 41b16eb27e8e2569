package tenants

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// Errors of [File.Add] and [File.Remove] that are the caller's doing. What they
// wrap is fit for a client.
var (
	ErrInvalid  = errors.New("not a valid tenant")
	ErrExists   = errors.New("a tenant of this id exists already")
	ErrDirTaken = errors.New("the data directory is, holds or lies inside another tenant's")
	ErrNotFound = errors.New("no tenant has this id")
)

// NewTenant is what [File.Add] needs to know; the key is generated.
type NewTenant struct {
	ID      string
	DataDir string
	QuotaMB int64 // in MiB; 0 for none
}

func (t *NewTenant) check() error {
	if err := CheckID(t.ID); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := checkDataDir(t.DataDir); err != nil {
		return fmt.Errorf("%w: data directory %w", ErrInvalid, err)
	}
	if t.QuotaMB < 0 || t.QuotaMB > MaxQuotaMB {
		return fmt.Errorf("%w: quota must be from 0 (none) to %d MB", ErrInvalid, MaxQuotaMB)
	}
	return nil
}

// Add writes a new, enabled tenant with a new key to the file. The key is in
// force when Add returns, and this is the only time it is told. Add does not
// create the data directory. Errors other than [ErrInvalid], [ErrExists] and
// [ErrDirTaken] name the file's path and are for the log.
func (f *File) Add(t NewTenant) (key string, tenant *Tenant, err error) {
	if err := t.check(); err != nil {
		return "", nil, fmt.Errorf("add tenant: %w", err)
	}
	key = NewKey()
	r, err := f.edit(func(data []byte, r *Registry) ([]byte, error) {
		if r.ByID(t.ID) != nil {
			return nil, ErrExists
		}
		for _, other := range r.byID {
			if holds(other.DataDir, t.DataDir) || holds(t.DataDir, other.DataDir) {
				return nil, ErrDirTaken
			}
		}
		return appendTenant(data, fmt.Sprintf(`{"id": %s, "api_key": %s, "data_dir": %s, "quota_mb": %d, "enabled": true}`,
			quote(t.ID), quote(key), quote(t.DataDir), t.QuotaMB)), nil
	})
	if err != nil {
		return "", nil, fmt.Errorf("add tenant: %w", err)
	}
	return key, r.ByID(t.ID), nil
}

// Remove takes the tenant named id out of the file and returns what it was. Its
// key is dead when Remove returns; its data directory is left as it is. Errors
// other than [ErrNotFound] name the file's path and are for the log.
func (f *File) Remove(id string) (*Tenant, error) {
	var removed *Tenant
	_, err := f.edit(func(data []byte, r *Registry) ([]byte, error) {
		if removed = r.ByID(id); removed == nil {
			return nil, ErrNotFound
		}
		return deleteTenant(data, id)
	})
	if err != nil {
		return nil, fmt.Errorf("remove tenant: %w", err)
	}
	return removed, nil
}

// The two edits work on the text of a valid tenants.json, so that all they do
// not mean to change stays as its author wrote it.

// appendTenant puts object behind the last tenant, spaced from it as that one is
// from what stands before it.
func appendTenant(data []byte, object string) []byte {
	list := gjson.GetBytes(data, "tenants")
	elements := list.Array()
	if len(elements) == 0 {
		return splice(data, list.Index, list.Index+len(list.Raw), "[\n    "+object+"\n  ]")
	}
	last := elements[len(elements)-1]
	before := data[:last.Index]
	space := before[len(bytes.TrimRight(before, " \t\r\n")):]
	end := last.Index + len(last.Raw)
	return splice(data, end, end, ","+string(space)+object)
}

// deleteTenant takes out the tenant named id, which must be there.
func deleteTenant(data []byte, id string) ([]byte, error) {
	elements := gjson.GetBytes(data, "tenants").Array()
	i := slices.IndexFunc(elements, func(e gjson.Result) bool { return e.Get("id").Str == id })
	return sjson.DeleteBytes(data, fmt.Sprintf("tenants.%d", i))
}

// splice returns data with the bytes from start to end replaced by text.
func splice(data []byte, start, end int, text string) []byte {
	return slices.Concat(data[:start], []byte(text), data[end:])
}

// quote returns s as a JSON string.
func quote(s string) string {
	quoted, _ := json.Marshal(s) // a string always has a JSON form
	return string(quoted)
}
