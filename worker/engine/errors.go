package engine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors of opening an engine.
var (
	// ErrLocked means that another process owns the data directory.
	ErrLocked = errors.New("data directory is in use by another worker")

	// ErrForeign means that the data directory holds a link, or another kind of
	// file, in place of a folder or file of the engine's own. It is never
	// followed: it may lead to another tenant's. Until a person takes it away,
	// opening fails, and removing a document does where it is the trash. An
	// *[OwnerError] is one, too.
	ErrForeign = errors.New("something else is in the place of a folder or file of the worker's own")
)

// Errors of using one.
var (
	// ErrClosed means that the engine drains or has drained.
	ErrClosed = errors.New("worker is shutting down")

	// ErrFailed means that writing the log failed once. What the disk holds is
	// unknown until the log is read again, so every later write is refused and
	// the process must exit; see [Engine.Err] for the cause.
	ErrFailed = errors.New("storage failed: the worker must restart")

	// ErrChanged means that a document's file is not the one the engine opened:
	// a person edited it. [Engine.Reload] resolves it.
	ErrChanged = errors.New("document was changed on disk: load it first")

	// ErrNotFound means that there is no such document.
	ErrNotFound = errors.New("no such document")

	// ErrNotRegular is why a [DocumentError] refuses a document whose file is a
	// link, a folder, a pipe or the like.
	ErrNotRegular = errors.New("it is not a regular file")
)

// IsFull reports whether err means that the disk, or what the system lets the
// worker's user take of it, is full. Reads go on, and so do writes once there is
// room again, unless err is an [ErrFailed] too.
func IsFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// QuotaError says that a write would make the tenant's text exceed its quota.
type QuotaError struct {
	Used  int64 // bytes of all documents, breaks included
	Quota int64 // bytes
	Need  int64 // bytes that the write would add
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("quota exceeded: %d of %d bytes are used and this needs %d more", e.Used, e.Quota, e.Need)
}

// DocumentError says that one document's file cannot be served. The file is
// left as it is, and the tenant's other documents are not affected. Err is a
// *phext.TextError where the file's text is at fault.
type DocumentError struct {
	Document string
	Err      error
}

func (e *DocumentError) Error() string {
	return fmt.Sprintf("document %q cannot be read: %v", e.Document, e.Err)
}

func (e *DocumentError) Unwrap() error { return e.Err }

// CorruptError says that the log holds damage among records that were synced, or
// the file of keys does.
// Opening is refused, since dropping them would lose acknowledged writes.
type CorruptError struct {
	File   string // name of the segment, or "keys", in the data directory's .sq folder
	Offset int64  // of the first byte that does not verify
	Reason string
}

func (e *CorruptError) Error() string {
	if e.File == keysFile {
		return fmt.Sprintf("file %s is damaged: %s; restore it from a copy, or move it away to have writes that carry its keys made again", e.File, e.Reason)
	}
	return fmt.Sprintf("log segment %s is damaged at byte %d: %s; restore it from a copy, or move it away to give up the changes it holds",
		e.File, e.Offset, e.Reason)
}
