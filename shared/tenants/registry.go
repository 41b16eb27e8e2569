package tenants

import (
	"slices"
	"strings"
)

// Registry is the content of one tenants.json. It never changes: a change of the
// file makes a new registry.
type Registry struct {
	byKey map[[32]byte]*Tenant // by hash; the admin key's has no tenant
	byID  []*Tenant            // sorted by id
	admin [32]byte
}

// ByKey returns the tenant whose API key is key, or nil and true for the admin
// key, or nil and false for a key nobody has. A disabled tenant is returned as
// well: it is the caller who refuses it.
func (r *Registry) ByKey(key string) (t *Tenant, admin bool) {
	if len(key) > maxKeyBytes {
		return nil, false // no key is so long, so none is worth hashing
	}
	t, ok := r.byKey[HashKey(key)]
	return t, ok && t == nil
}

// ByID returns the tenant named id, or nil.
func (r *Registry) ByID(id string) *Tenant {
	i, ok := slices.BinarySearchFunc(r.byID, id, func(t *Tenant, id string) int {
		return strings.Compare(t.ID, id)
	})
	if !ok {
		return nil
	}
	return r.byID[i]
}

// Tenants returns all tenants, sorted by id. The slice is the registry's own: do
// not modify it.
func (r *Registry) Tenants() []*Tenant { return r.byID }

// equal reports whether both registries grant the same.
func (r *Registry) equal(o *Registry) bool {
	return r.admin == o.admin && slices.EqualFunc(r.byID, o.byID, func(a, b *Tenant) bool { return *a == *b })
}
