package supervisor

import (
	"errors"
	"fmt"
	"time"
)

// ErrTimeout is in the chain of the error of a request that the worker took and
// did not begin to answer within [Config.ResponseTimeout].
var ErrTimeout = errors.New("the worker did not begin to answer in time")

// ErrRefused is in the chain of an [ErrUnavailable] whose worker refused the
// tenant's data directory; see [wire.Refused].
var ErrRefused = errors.New("the worker refused the data directory")

// ErrAbsent is in the chain of an [ErrUnavailable] whose worker did not find the
// tenant's data in its directory; see [wire.Absent].
var ErrAbsent = errors.New("the worker did not find the tenant's data")

// errClosing is why nothing starts any more.
var errClosing = errors.New("the edge is shutting down")

// ErrUnavailable says that the tenant has no worker that could take the
// request: it did not start, it keeps dying, or the edge is shutting down. The
// request was sent to no worker.
type ErrUnavailable struct {
	Tenant     string
	RetryAfter time.Duration // until another start may be tried; 0 if unknown
	Err        error         // why; may hold paths, so it is for the log alone
}

func (e *ErrUnavailable) Error() string {
	return fmt.Sprintf("worker of tenant %s is unavailable: %v", e.Tenant, e.Err)
}

func (e *ErrUnavailable) Unwrap() error { return e.Err }

// ErrDied says that the worker ended, or broke the connection, while it had the
// request.
type ErrDied struct {
	Tenant string
	// Unsent is set if certainly no byte of the request reached the worker,
	// so that nothing can have been changed. Otherwise a write may or may not
	// have been made.
	Unsent bool
	Err    error
}

func (e *ErrDied) Error() string {
	if e.Unsent {
		return fmt.Sprintf("worker of tenant %s died before the request was sent: %v", e.Tenant, e.Err)
	}
	return fmt.Sprintf("worker of tenant %s died with the request: %v", e.Tenant, e.Err)
}

func (e *ErrDied) Unwrap() error { return e.Err }
