//go:build !linux

package engine

import "os"

func syncData(f *os.File) error { return f.Sync() }

func allocate(*os.File, int64, int64) error { return nil }

func pace(*os.File, int64, int64, int64) error { return nil }
