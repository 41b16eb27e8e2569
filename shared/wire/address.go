package wire

import (
	"fmt"
	"strings"

	"github.com/sqedge/sqedge/shared/phext"
)

// Address is what a worker's c parameter holds: the tenant whose data is meant
// and, for operations on one scroll, its coordinate.
type Address struct {
	Tenant        string
	Coordinate    phext.Coordinate
	HasCoordinate bool
}

// String returns TENANT or TENANT.COORDINATE.
func (a Address) String() string { return string(a.Append(nil)) }

// Append appends what [Address.String] returns to dst.
func (a Address) Append(dst []byte) []byte {
	dst = append(dst, a.Tenant...)
	if a.HasCoordinate {
		dst = a.Coordinate.Append(append(dst, '.'))
	}
	return dst
}

// ParseAddress reads what [Address.String] writes. A tenant id holds no dot, so
// the first one ends it.
func ParseAddress(s string) (Address, error) {
	tenant, coordinate, has := strings.Cut(s, ".")
	if tenant == "" {
		return Address{}, fmt.Errorf("address names no tenant")
	}
	a := Address{Tenant: tenant, HasCoordinate: has}
	if has {
		var err error
		if a.Coordinate, err = phext.ParseCoordinate(coordinate); err != nil {
			return Address{}, err
		}
	}
	return a, nil
}
