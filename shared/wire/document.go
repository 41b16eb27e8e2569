package wire

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxDocumentName is the longest document name in bytes; with the extension and
// the suffixes of temporary files it stays below a file system's 255.
const MaxDocumentName = 200

// DefaultDocument is meant where a request names none.
const DefaultDocument = "default"

// CheckDocument says why name cannot name a document, in words fit for a
// client, or nil. A document is a file of its tenant's directory, so anything
// that could lead elsewhere or hide is refused.
func CheckDocument(name string) error {
	switch {
	case name == "":
		return errors.New("document name is empty")
	case len(name) > MaxDocumentName:
		return fmt.Errorf("document name has %d bytes: at most %d are allowed", len(name), MaxDocumentName)
	case !utf8.ValidString(name):
		return errors.New("document name is not valid UTF-8")
	case strings.HasPrefix(name, "."):
		return errors.New("document name begins with a dot")
	case strings.Contains(name, ".."):
		return errors.New("document name holds two dots in a row")
	case strings.ContainsAny(name, `/\`):
		return errors.New("document name holds a slash or a backslash")
	case strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("document name holds a control character")
	}
	return nil
}
