//go:build !linux

package supervisor

import "time"

// Elsewhere no worker is known to use anything, so that none yields.
func processorTime(int) time.Duration { return 0 }

func setIdlePolicy(int, bool) (bool, error) { return false, nil }

func mayReturn() error { return nil }
