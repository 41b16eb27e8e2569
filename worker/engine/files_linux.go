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

// preallocate makes f size bytes long, zeros at the end, with the blocks to
// hold them, so that a sync of an append has no file size to write.
func preallocate(f *os.File, size int64) error {
	err := directory{f}.at(func(fd int) error {
		return ignoreEINTR(func() error { return unix.Fallocate(fd, 0, 0, size) })
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return f.Truncate(size)
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
