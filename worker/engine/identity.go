package engine

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

// identityFile, in the control folder, says whose data the directory holds. It
// goes where the directory goes: a moved, copied or restored one says the same.
const identityFile = "owner"

// maxIdentity is more than an identity file ever has, in bytes.
const maxIdentity = 4 << 10

// owner is what an identity file holds, as a line of JSON.
type owner struct {
	Tenant string `json:"tenant"`
	ID     string `json:"id"` // 32 hex digits, random, made with the directory's first start
}

// ErrAbsent means that the data directory is not the one that was the tenant's:
// its disk may not be mounted, or somebody has emptied it. Nothing was read or
// changed.
var ErrAbsent = errors.New("the data directory is not the tenant's")

// OwnerError says that a data directory is not the tenant's own, or does not say
// whose it is. Nothing in it was read or changed.
type OwnerError struct {
	Tenant string // whose worker wanted to open it
	Owner  string // whose it says it is; empty where it cannot be read
	Err    error  // why it cannot
}

func (e *OwnerError) Error() string {
	const remedy = "; if the directory is meant for this tenant, remove " + controlFolder + "/" + identityFile + " in it"
	if e.Err != nil {
		return fmt.Sprintf("the data directory does not say whose it is: %v%s", e.Err, remedy)
	}
	return fmt.Sprintf("the data directory is tenant %s's, not %s's: look at data_dir in tenants.json%s", e.Owner, e.Tenant, remedy)
}

// Unwrap makes it an [ErrForeign], too.
func (e *OwnerError) Unwrap() []error { return []error{ErrForeign, e.Err} }

// checkOwner refuses a directory that another tenant's worker has made its own.
// One that nobody has, being new, migrated or of an older version, becomes the
// tenant's, unless the tenant is known to have another. The lock is held.
func (e *Engine) checkOwner() error {
	was, err := readOwner(e.control)
	switch {
	case errors.Is(err, fs.ErrNotExist) && e.opts.Owner == "":
		return e.takeOwnership()
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: it has no %s/%s, and the tenant's has: is its disk mounted, and has nobody emptied it?", ErrAbsent, controlFolder, identityFile)
	case err != nil:
		return &OwnerError{Tenant: e.opts.Tenant, Err: err}
	case was.Tenant != e.opts.Tenant:
		return &OwnerError{Tenant: e.opts.Tenant, Owner: was.Tenant}
	case e.opts.Owner != "" && was.ID != e.opts.Owner:
		return fmt.Errorf("%w: its id in %s/%s is %.40q, and the tenant's is %q: has another one been put in its place?", ErrAbsent, controlFolder, identityFile, was.ID, e.opts.Owner)
	}
	e.owner = was.ID
	return nil
}

// checkPresent refuses a directory that has no identity where the tenant is known
// to have one, before anything is made in what may be an empty mount point.
func (e *Engine) checkPresent() error {
	if e.opts.Owner == "" {
		return nil
	}
	if id, err := e.dir.stat(controlFolder); err != nil || id.exists {
		return err
	}
	return fmt.Errorf("%w: it has no folder %s: is its disk mounted, and has nobody emptied it?", ErrAbsent, controlFolder)
}

// Owner returns the random id of the data directory.
func (e *Engine) Owner() string { return e.owner }

// readOwner returns what the identity file of a control folder says.
func readOwner(control directory) (o owner, err error) {
	f, err := control.open(identityFile, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return o, err
	}
	if err != nil {
		return o, fmt.Errorf("%s/%s: %w", controlFolder, identityFile, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIdentity))
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	if err == nil && (o.Tenant == "" || o.ID == "") {
		err = errors.New("it names no tenant")
	}
	if err != nil {
		return owner{}, fmt.Errorf("%s/%s: %w", controlFolder, identityFile, err)
	}
	return o, nil
}

// takeOwnership writes the identity file: whole and durable, or not at all.
func (e *Engine) takeOwnership() error {
	var id [16]byte
	rand.Read(id[:])
	e.owner = hex.EncodeToString(id[:])
	line, err := json.Marshal(owner{Tenant: e.opts.Tenant, ID: e.owner})
	if err == nil {
		err = writeOwner(e.control, append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write %s/%s: %w", controlFolder, identityFile, err)
	}
	return nil
}

func writeOwner(control directory, line []byte) error {
	f, err := control.temp()
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = control.rename(f.Name(), control, identityFile)
	}
	if err != nil {
		return errors.Join(err, control.remove(f.Name()))
	}
	return control.sync()
}

// checkOwner finds out whose directory it is.
func (o *offline) checkOwner() {
	var err error
	o.owner, err = readOwner(o.engine.control)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.damage(controlFolder+"/"+identityFile, reason(err)+", so no worker opens this directory")
	}
}

// keepOwner gives a repaired directory the identity of the old one, where it has
// one that can be read.
func (r *repair) keepOwner() error {
	if r.owner.Tenant == "" {
		return nil
	}
	line, err := json.Marshal(r.owner)
	if err == nil {
		err = writeOwner(r.control, append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write %s/%s: %w", controlFolder, identityFile, err)
	}
	return nil
}
