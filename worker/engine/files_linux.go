package engine

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData makes f's content durable, without its times. It is a variable for
// one test, which acknowledges too early to see that a power cut shows it.
var syncData = func(f *os.File) error {
	return directory{f}.at(unix.Fdatasync)
}

// allocate reserves the blocks for bytes [from:to) of f, in one piece if it can.
// It is a hint, except that a full disk is an error.
func allocate(f *os.File, from, to int64) error {
	err := directory{f}.at(func(fd int) error { return unix.Fallocate(fd, 0, from, to-from) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// pace starts to write back a file's bytes [from:to), and waits until those of
// the step before it are written: so the syncs of the log never queue up behind
// much of a large file. It may take the report of a failed write that the file's
// sync would have had, so its error counts.
func pace(f *os.File, before, from, to int64) error {
	err := directory{f}.at(func(fd int) error {
		err := unix.SyncFileRange(fd, from, to-from, unix.SYNC_FILE_RANGE_WRITE)
		if err != nil || before == from {
			return err
		}
		return unix.SyncFileRange(fd, before, from-before, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
	})
	if errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}
