//go:build !linux

package engine

import "os"

func syncData(f *os.File) error { return f.Sync() }

func preallocate(f *os.File, size int64) error { return f.Truncate(size) }

func startWriteback(*os.File, int64, int64) {}
