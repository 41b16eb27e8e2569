package tenants

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// FileError is a fault of a tenants.json. It says where in the file, and never
// what stands there: a value may be a key.
type FileError struct {
	Path   string // of the file, for the operator's log alone; "" from [Parse]
	Line   int    // from 1; 0 where the fault has no place in the text
	Column int    // from 1, in characters
	Err    error  // without path and position
}

// Error returns path:line:column: message, leaving out what is not known.
func (e *FileError) Error() string {
	switch {
	case e.Line == 0 && e.Path == "":
		return e.Err.Error()
	case e.Line == 0:
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	case e.Path == "":
		return fmt.Sprintf("line %d, column %d: %v", e.Line, e.Column, e.Err)
	}
	return fmt.Sprintf("%s:%d:%d: %v", e.Path, e.Line, e.Column, e.Err)
}

// Unwrap returns the fault itself.
func (e *FileError) Unwrap() error { return e.Err }

// Parse reads the content of a tenants.json. It is all or nothing: any fault
// makes it a [*FileError] at the offending value. Members it does not know are
// allowed.
func Parse(data []byte) (*Registry, error) {
	p := parser{data: data, fields: make(map[string]gjson.Result)}
	if err := p.checkText(); err != nil {
		return nil, err
	}
	return p.file(gjson.ParseBytes(data))
}

// parser walks a valid JSON text by the byte offsets gjson knows, which
// encoding/json does not tell once a value is decoded.
type parser struct {
	data   []byte
	fields map[string]gjson.Result // of the tenant being read; one map for all is half of the garbage
}

// fault returns a [*FileError] at the byte offset at.
func (p *parser) fault(at int, format string, args ...any) error {
	before := p.data[:at]
	start := bytes.LastIndexByte(before, '\n') + 1
	return &FileError{
		Line:   1 + bytes.Count(before, []byte("\n")),
		Column: 1 + utf8.RuneCount(before[start:]),
		Err:    fmt.Errorf(format, args...),
	}
}

// checkText makes sure that data is one JSON value in UTF-8, the condition of
// all that gjson says about it.
func (p *parser) checkText() error {
	if bytes.HasPrefix(p.data, []byte("\ufeff")) {
		return p.fault(0, "file begins with a byte order mark: save it as UTF-8 without one")
	}
	if at := invalidUTF8(p.data); at >= 0 {
		return p.fault(at, "file is not valid UTF-8")
	}
	if json.Valid(p.data) {
		return nil
	}
	var raw json.RawMessage
	err := json.Unmarshal(p.data, &raw)
	at := 0
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = min(int(syntax.Offset), len(p.data))
		if at > 0 && !strings.HasPrefix(err.Error(), "unexpected end") {
			at-- // Offset counts the offending byte
		}
	}
	return p.fault(at, "file is not valid JSON: %w", err)
}

// invalidUTF8 returns the offset of the first byte of data that is no UTF-8, or
// -1.
func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for at := 0; ; {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n <= 1 {
			return at
		}
		at += n
	}
}

// entry is a tenant and where its values stand, for faults that only show when
// all tenants are known.
type entry struct {
	*Tenant
	index                int // in the tenants array
	idAt, keyAt, dataDir int // byte offsets of values
}

func (p *parser) file(root gjson.Result) (*Registry, error) {
	if !root.IsObject() {
		return nil, p.fault(root.Index, "top level must be an object with admin_key and tenants")
	}
	top := make(map[string]gjson.Result)
	err := p.members(top, root, "top level")
	if err != nil {
		return nil, err
	}
	admin, err := p.text(root, top, "", "admin_key")
	if err != nil {
		return nil, err
	}
	if err := checkKey(admin.Str); err != nil {
		return nil, p.fault(admin.Index, "admin_key %w", err)
	}
	list, ok := top["tenants"]
	if !ok {
		return nil, p.fault(root.Index, "tenants is missing: it may be an empty array")
	}
	if !list.IsArray() {
		return nil, p.fault(list.Index, "tenants must be an array, not %s", kind(list))
	}

	var entries []entry
	list.ForEach(func(_, value gjson.Result) bool {
		var e entry
		if e, err = p.tenant(value, len(entries)); err != nil {
			return false
		}
		entries = append(entries, e)
		return true
	})
	if err != nil {
		return nil, err
	}
	return p.registry(HashKey(admin.Str), entries)
}

// tenant reads one entry of the tenants array.
func (p *parser) tenant(value gjson.Result, index int) (entry, error) {
	where := fmt.Sprintf("tenants[%d]", index)
	if !value.IsObject() {
		return entry{}, p.fault(value.Index, "%s must be an object, not %s", where, kind(value))
	}
	members := p.fields
	clear(members)
	if err := p.members(members, value, where); err != nil {
		return entry{}, err
	}
	where += "."
	id, err := p.text(value, members, where, "id")
	if err != nil {
		return entry{}, err
	}
	if err := CheckID(id.Str); err != nil {
		return entry{}, p.fault(id.Index, "%sid: %w", where, err)
	}
	key, err := p.text(value, members, where, "api_key")
	if err != nil {
		return entry{}, err
	}
	if err := checkKey(key.Str); err != nil {
		return entry{}, p.fault(key.Index, "%sapi_key %w", where, err)
	}
	dir, err := p.text(value, members, where, "data_dir")
	if err != nil {
		return entry{}, err
	}
	if err := checkDataDir(dir.Str); err != nil {
		return entry{}, p.fault(dir.Index, "%sdata_dir %w", where, err)
	}
	// The strings are parts of the whole file's text, keys included: clone them,
	// or the text would live as long as the tenant.
	t := &Tenant{ID: strings.Clone(id.Str), DataDir: strings.Clone(dir.Str), Enabled: true, KeyHash: HashKey(key.Str)}

	if quota, ok := members["quota_mb"]; ok {
		n, err := strconv.ParseUint(quota.Raw, 10, 63)
		if err != nil || n > MaxQuotaMB {
			return entry{}, p.fault(quota.Index, "%squota_mb must be a whole number from 0 (no quota) to %d", where, MaxQuotaMB)
		}
		t.QuotaMB = int64(n)
	}
	if enabled, ok := members["enabled"]; ok {
		if !enabled.IsBool() {
			return entry{}, p.fault(enabled.Index, "%senabled must be true or false, not %s", where, kind(enabled))
		}
		t.Enabled = enabled.Bool()
	}
	if limits, ok := members["limits"]; ok {
		if t.Limits, err = p.limits(limits, where+"limits"); err != nil {
			return entry{}, err
		}
	}
	return entry{Tenant: t, index: index, idAt: id.Index, keyAt: key.Index, dataDir: dir.Index}, nil
}

// limits reads a tenant's limits. Unlike elsewhere, a name that is not known is
// a fault: a limit that is misspelt would be none.
func (p *parser) limits(value gjson.Result, where string) (l Limits, err error) {
	if !value.IsObject() {
		return l, p.fault(value.Index, "%s must be an object, not %s", where, kind(value))
	}
	members := make(map[string]gjson.Result)
	if err := p.members(members, value, where); err != nil {
		return l, err
	}
	value.ForEach(func(name, value gjson.Result) bool {
		rule := RuleOf(name.Str)
		if rule == nil {
			err = p.fault(name.Index, "%s has a member that is no limit: it may have %s", where, LimitNames())
			return false
		}
		number, fault := strconv.ParseUint(value.Raw, 10, 63)
		n := int64(number)
		if fault != nil || rule.Check(n) != nil {
			err = p.fault(value.Index, "%s.%w", where, rule.Check(rule.Max+1))
			return false
		}
		if n == 0 {
			n = Unlimited
		}
		*rule.Value(&l) = n
		return true
	})
	if burst, ok := members["burst"]; err == nil && ok && l.RequestsPerSecond <= 0 {
		err = p.fault(burst.Index, "%s: %w", where, errLoneBurst)
	}
	return l, err
}

// registry checks what must be unique among the tenants and builds the registry.
func (p *parser) registry(admin [32]byte, entries []entry) (*Registry, error) {
	r := &Registry{
		byKey: make(map[[32]byte]*Tenant, len(entries)+1),
		byID:  make([]*Tenant, len(entries)),
		admin: admin,
	}
	r.byKey[admin] = nil
	for _, e := range entries {
		if other, taken := r.byKey[e.KeyHash]; taken && other == nil {
			return nil, p.fault(e.keyAt, "tenants[%d].api_key is the same as admin_key", e.index)
		} else if taken {
			first := slices.IndexFunc(entries, func(o entry) bool { return o.Tenant == other })
			return nil, p.fault(e.keyAt, "tenants[%d].api_key is the same as tenants[%d].api_key", e.index, first)
		}
		r.byKey[e.KeyHash] = e.Tenant
	}

	// A directory sorts right before all that lie in it, so a fault shows between
	// neighbours.
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(compareDirs(a.DataDir, b.DataDir), a.index-b.index) })
	for i := 1; i < len(entries); i++ {
		outer, inner := entries[i-1], entries[i]
		switch {
		case outer.DataDir == inner.DataDir:
			return nil, p.fault(inner.dataDir, "tenants[%d].data_dir is the same as tenants[%d].data_dir", inner.index, outer.index)
		case holds(outer.DataDir, inner.DataDir):
			return nil, p.fault(inner.dataDir, "tenants[%d].data_dir lies inside tenants[%d].data_dir", inner.index, outer.index)
		}
	}

	slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(strings.Compare(a.ID, b.ID), a.index-b.index) })
	for i, e := range entries {
		if i > 0 && e.ID == entries[i-1].ID {
			return nil, p.fault(e.idAt, "tenants[%d].id is the same as tenants[%d].id", e.index, entries[i-1].index)
		}
		r.byID[i] = e.Tenant
	}
	return r, nil
}

// members puts an object's members into the empty map into, by name. A name that
// appears twice is a fault, since readers of JSON differ in which one counts.
func (p *parser) members(into map[string]gjson.Result, object gjson.Result, where string) (err error) {
	object.ForEach(func(name, value gjson.Result) bool {
		if _, twice := into[name.Str]; twice {
			err = p.fault(name.Index, "%s has two members of this name", where)
			return false
		}
		into[name.Str] = value
		return true
	})
	return err
}

// text returns the member name of object, which must be a string.
func (p *parser) text(object gjson.Result, members map[string]gjson.Result, where, name string) (gjson.Result, error) {
	value, ok := members[name]
	if !ok {
		return value, p.fault(object.Index, "%s%s is missing", where, name)
	}
	if value.Type != gjson.String {
		return value, p.fault(value.Index, "%s%s must be a string, not %s", where, name, kind(value))
	}
	return value, nil
}

// kind names the type of v for an error.
func kind(v gjson.Result) string {
	switch {
	case v.IsObject():
		return "an object"
	case v.IsArray():
		return "an array"
	case v.IsBool():
		return "a boolean"
	case v.Type == gjson.String:
		return "a string"
	case v.Type == gjson.Number:
		return "a number"
	}
	return "null"
}
