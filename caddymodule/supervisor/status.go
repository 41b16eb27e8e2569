package supervisor

import (
	"slices"
	"strings"
	"time"
)

// State says what a tenant's worker is doing.
type State string

// The states of a tenant's worker.
const (
	Asleep   State = "asleep"   // no process; the next request starts one
	Starting State = "starting" // waiting for its turn, or for the worker to be ready
	Ready    State = "ready"
	Draining State = "draining" // finishing; requests wait for the next one
	Broken   State = "broken"   // it failed, and may not be started again yet
)

// Status describes a tenant's worker at one moment.
type Status struct {
	Tenant    string
	State     State
	PID       int           // 0 where there is no process
	StartedAt time.Time     // when it became ready; zero where it is not
	RSS       int64         // resident memory in bytes; 0 where unknown
	Starts    int           // since the edge began
	Crashes   int           // failed starts and unexpected ends since then
	LastError string        // of the last of those; may hold paths
	RetryIn   time.Duration // until a broken one may be started
}

// Status describes the worker of one tenant. One that was never asked for is
// asleep.
func (s *Supervisor) Status(id string) Status {
	v, ok := s.tenants.Load(id)
	if !ok {
		return Status{Tenant: id, State: Asleep}
	}
	return v.(*tenant).status()
}

// Statuses describes the workers of all tenants that were ever asked for,
// ordered by tenant.
func (s *Supervisor) Statuses() []Status {
	var all []Status
	for _, v := range s.tenants.Range {
		all = append(all, v.(*tenant).status())
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Tenant, b.Tenant) })
	return all
}

func (t *tenant) status() Status {
	t.mu.Lock()
	st := Status{Tenant: t.id, State: Asleep, Starts: t.starts, Crashes: t.crashes}
	if t.lastErr != nil {
		st.LastError = t.lastErr.Error()
	}
	if g := t.current; g != nil {
		st.State, st.StartedAt = g.state, g.readyAt
		if g.process != nil {
			st.PID = g.process.pid
		}
	} else if st.RetryIn = t.retry.remaining(time.Now()); st.RetryIn > 0 {
		st.State = Broken
	}
	t.mu.Unlock()
	if st.PID != 0 {
		st.RSS = residentBytes(st.PID)
	}
	return st
}
