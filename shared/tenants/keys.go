package tenants

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// Limits of a key in bytes.
const (
	minKeyBytes = 8
	maxKeyBytes = 512
)

var errKey = errors.New("must have 8 to 512 printable ASCII characters and no space")

// NewKey returns a new API key: "pmb-v1-" and 32 hex digits of crypto/rand.
func NewKey() string { return newKey("pmb-v1-") }

// NewAdminKey returns a new admin key: "pmb-admin-" and 32 hex digits of
// crypto/rand.
func NewAdminKey() string { return newKey("pmb-admin-") }

func newKey(prefix string) string {
	var random [16]byte
	rand.Read(random[:]) // never fails
	return prefix + hex.EncodeToString(random[:])
}

// HashKey returns the SHA-256 of key. A generated key has 128 random bits, so
// neither salt nor a slow hash would add to it, and lookups by hash take the
// same time whatever an attacker guesses.
func HashKey(key string) [32]byte {
	// A buffer on the stack, since a conversion allocates for every request.
	var buffer [maxKeyBytes]byte
	if len(key) > len(buffer) {
		return sha256.Sum256([]byte(key))
	}
	return sha256.Sum256(buffer[:copy(buffer[:], key)])
}

// checkKey never says what the key is.
func checkKey(key string) error {
	if len(key) < minKeyBytes || len(key) > maxKeyBytes {
		return errKey
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return errKey
		}
	}
	return nil
}
