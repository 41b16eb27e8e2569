//go:build !linux

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// forbidCore sees to it that no core file holds the texts in memory.
func forbidCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setting RLIMIT_CORE to 0: %w", err)
	}
	return nil
}
