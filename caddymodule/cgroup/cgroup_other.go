//go:build !linux

package cgroup

import (
	"errors"
	"syscall"
)

var errLinux = errors.New("only Linux has cgroups")

// Open returns an error.
func Open() (*Tree, error) { return nil, errLinux }

// Place returns an error.
func (g *Group) Place(*syscall.SysProcAttr) (done func(), err error) { return nil, errLinux }
