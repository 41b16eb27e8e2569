package tenants

import (
	"fmt"
	"strings"

	"github.com/sqedge/sqedge/shared/wire"
)

// Unlimited is the value of a limit that tenants.json sets to 0: there is none
// for this tenant, whatever the default is.
const Unlimited = -1

// Limits bound what one tenant may use. As an entry of tenants.json has them, a
// value above zero is a limit, zero means that the default applies, and
// [Unlimited] that there is none; [Limits.Or] resolves them.
type Limits struct {
	RequestsPerSecond  int64 `json:"requests_per_second,omitempty"` // on average
	Burst              int64 `json:"burst,omitempty"`               // requests that may come at once; one second's worth by default
	RequestsPerDay     int64 `json:"requests_per_day,omitempty"`    // in a day of UTC
	ConcurrentRequests int64 `json:"concurrent_requests,omitempty"` // being answered at once
	OpenStreams        int64 `json:"open_streams,omitempty"`        // of those, whole documents and other long answers
	MaxScroll          int64 `json:"max_scroll_bytes,omitempty"`    // text of one request
	MaxDocument        int64 `json:"max_document_bytes,omitempty"`  // put whole
	MemoryMB           int64 `json:"memory_mb,omitempty"`           // that the worker may hold documents in, MiB
	CPUWeight          int64 `json:"cpu_weight,omitempty"`          // of the worker, as cgroup v2's cpu.weight, where 100 is usual
}

// LimitRule is what a limit is called and may be.
type LimitRule struct {
	Name     string
	Min, Max int64
	Value    func(*Limits) *int64
}

// LimitRules are all limits, as tenants.json and the Caddyfile name them. Each
// may be 0, too, for none.
var LimitRules = []LimitRule{
	{"requests_per_second", 1, 1_000_000, func(l *Limits) *int64 { return &l.RequestsPerSecond }},
	{"burst", 1, 1_000_000, func(l *Limits) *int64 { return &l.Burst }},
	{"requests_per_day", 1, 1_000_000_000_000, func(l *Limits) *int64 { return &l.RequestsPerDay }},
	{"concurrent_requests", 1, 1_000_000, func(l *Limits) *int64 { return &l.ConcurrentRequests }},
	{"open_streams", 1, 1_000_000, func(l *Limits) *int64 { return &l.OpenStreams }},
	{"max_scroll_bytes", 1, wire.MaxText, func(l *Limits) *int64 { return &l.MaxScroll }},
	{"max_document_bytes", 1, wire.MaxDocument, func(l *Limits) *int64 { return &l.MaxDocument }},
	{"memory_mb", wire.MinMemory, wire.MaxMemory, func(l *Limits) *int64 { return &l.MemoryMB }},
	{"cpu_weight", 1, 10_000, func(l *Limits) *int64 { return &l.CPUWeight }},
}

// RuleOf returns the rule of the limit name, or nil.
func RuleOf(name string) *LimitRule {
	for i := range LimitRules {
		if LimitRules[i].Name == name {
			return &LimitRules[i]
		}
	}
	return nil
}

// LimitNames returns the names of all limits, for an error.
func LimitNames() string {
	names := make([]string, len(LimitRules))
	for i, rule := range LimitRules {
		names[i] = rule.Name
	}
	return strings.Join(names, ", ")
}

// Check says why n cannot be the limit, or nil.
func (r *LimitRule) Check(n int64) error {
	if n != 0 && (n < r.Min || n > r.Max) {
		return fmt.Errorf("%s must be 0 (no limit) or a whole number from %d to %d", r.Name, r.Min, r.Max)
	}
	return nil
}

// Check says why l cannot be the defaults of all tenants, or nil.
func (l *Limits) Check() error {
	for i := range LimitRules {
		if err := LimitRules[i].Check(*LimitRules[i].Value(l)); err != nil {
			return err
		}
	}
	if l.Burst != 0 && l.RequestsPerSecond == 0 {
		return errLoneBurst
	}
	return nil
}

var errLoneBurst = fmt.Errorf("burst needs requests_per_second beside it")

// Or returns the limits in force for a tenant with the limits l where the
// defaults are given: 0 is no limit then. A tenant that has a rate of its own
// takes no part of the default's.
func (l Limits) Or(defaults Limits) Limits {
	if l.RequestsPerSecond != 0 && l.Burst == 0 {
		l.Burst = Unlimited
	}
	resolve := func(own *int64, fallback int64) {
		switch *own {
		case 0:
			*own = fallback
		case Unlimited:
			*own = 0
		}
	}
	resolve(&l.RequestsPerSecond, defaults.RequestsPerSecond)
	resolve(&l.Burst, defaults.Burst)
	resolve(&l.RequestsPerDay, defaults.RequestsPerDay)
	resolve(&l.ConcurrentRequests, defaults.ConcurrentRequests)
	resolve(&l.OpenStreams, defaults.OpenStreams)
	resolve(&l.MaxScroll, defaults.MaxScroll)
	resolve(&l.MaxDocument, defaults.MaxDocument)
	resolve(&l.MemoryMB, defaults.MemoryMB)
	resolve(&l.CPUWeight, defaults.CPUWeight)
	if l.Burst == 0 {
		l.Burst = l.RequestsPerSecond
	}
	if l.MaxScroll == 0 {
		l.MaxScroll = wire.MaxText
	}
	if l.MaxDocument == 0 {
		l.MaxDocument = wire.MaxDocument
	}
	return l
}
