package tenants

import (
	"path/filepath"
	"strings"
)

// ownersExt replaces the extension of the tenants file in the name of the file
// beside it, to which the edge appends. That is no change of the tenants.
const ownersExt = ".owners.jsonl"

// OwnersPath returns where the edge keeps what it must remember of the data
// directories of the tenants in the file at path: /etc/sq/tenants.owners.jsonl
// for /etc/sq/tenants.json.
func OwnersPath(path string) string {
	return strings.TrimSuffix(path, filepath.Ext(path)) + ownersExt
}
