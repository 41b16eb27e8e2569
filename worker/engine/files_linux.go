package engine

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData makes f's content durable, without its times.
func syncData(f *os.File) error {
	return directory{f}.at(func(fd int) error {
		return ignoreEINTR(func() error { return unix.Fdatasync(fd) })
	})
}

// allocate reserves the blocks for bytes [from:to) of f, in one piece if it can.
// It is a hint, except that a full disk is an error.
func allocate(f *os.File, from, to int64) error {
	err := directory{f}.at(func(fd int) error {
		return ignoreEINTR(func() error { return unix.Fallocate(fd, 0, from, to-from) })
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// startWriteback asks the kernel to begin writing a range, so that the sync at
// the end of a large file does not hold up the log's syncs. It is a hint.
func startWriteback(f *os.File, offset, length int64) {
	directory{f}.at(func(fd int) error {
		return unix.SyncFileRange(fd, offset, length, unix.SYNC_FILE_RANGE_WRITE)
	})
}
