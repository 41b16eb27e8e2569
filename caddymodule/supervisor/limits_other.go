//go:build !linux

package supervisor

func readLimits() limits { return limits{} }
