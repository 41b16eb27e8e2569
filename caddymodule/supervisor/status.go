package supervisor

import (
	"slices"
	"strings"
	"time"
)

// Status describes a tenant's worker at one moment.
type Status struct {
	Tenant    string
	State     State
	Since     time.Time     // when it took this state; zero where the tenant was never asked for
	Held      bool          // kept down until it is released
	PID       int           // 0 where there is no process
	StartedAt time.Time     // when it became ready; zero where it is not
	Yields    bool          // runs only where nobody else wants to, since it uses far more of the processors than others
	RSS       int64         // resident memory in bytes, without the binary's where only its cgroup tells; 0 where unknown
	Starts    int           // since the edge began
	Crashes   int           // failed starts and unexpected ends since then
	LastError string        // of the last of those; may hold paths
	Refused   string        // why the last worker to start refused the data directory; "" once one takes it
	RetryIn   time.Duration // until a broken one may be started
}

// Status describes the worker of one tenant. One that was never asked for is
// asleep.
func (s *Supervisor) Status(id string) Status {
	v, ok := s.tenants.Load(id)
	if !ok {
		return Status{Tenant: id, State: Asleep}
	}
	return v.(*tenant).status(s.clock.Now())
}

// Statuses describes the workers of all tenants that were ever asked for,
// ordered by tenant.
func (s *Supervisor) Statuses() []Status {
	var all []Status
	now := s.clock.Now()
	for _, v := range s.tenants.Range {
		all = append(all, v.(*tenant).status(now))
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Tenant, b.Tenant) })
	return all
}

// States is Statuses by tenant and without what would have to be asked of the
// system, RSS.
func (s *Supervisor) States() map[string]Status {
	all := make(map[string]Status)
	now := s.clock.Now()
	for id, v := range s.tenants.Range {
		all[id.(string)] = v.(*tenant).describe(now)
	}
	return all
}

func (t *tenant) status(now time.Time) Status {
	st := t.describe(now)
	t.mu.Lock()
	var p *process
	if t.current != nil {
		p = t.current.process
	}
	t.mu.Unlock()
	if p != nil {
		st.RSS = p.resident()
	}
	return st
}

func (t *tenant) describe(now time.Time) Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := Status{
		Tenant: t.id, State: t.state, Since: t.since, Held: t.held,
		Starts: t.starts, Crashes: t.crashes,
	}
	if t.lastErr != nil {
		st.LastError = t.lastErr.Error()
	}
	if t.refused != nil {
		st.Refused = t.refused.Error()
	}
	if g := t.current; g != nil {
		st.StartedAt = g.readyAt
		if g.process != nil {
			st.PID, st.Yields = g.process.pid, g.yields.Load()
		}
	}
	if t.state == Broken {
		st.RetryIn = t.retry.remaining(now)
	}
	return st
}
