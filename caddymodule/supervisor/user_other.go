//go:build !linux

package supervisor

import (
	"errors"
	"os"
	"syscall"
)

var errUsers = errors.New("workers have users of their own only on Linux")

func checkUserRights() error { return errUsers }

func keepRights() error { return nil }

func runAs(*syscall.SysProcAttr, uint32) {}

func directoryPath(dir *os.File) string { return dir.Name() }

func give(string, int, int) (*os.File, error) { return nil, errUsers }
