// Package wire is the contract between the edge and a tenant's worker: the
// operations, the shape of a request, the headers, the error codes and the
// descriptors a worker inherits. Both sides import it; it imports neither.
//
// The edge sends a worker HTTP/1.1 over a unix socket:
//
//	METHOD /OP?c=TENANT[.COORDINATE]&p=DOCUMENT
//
// The method is GET for a read and POST for a write, whatever the client used,
// and the body is the text. Every request names the tenant in c, alone where
// the operation has no coordinate, so that a worker can refuse what is not its
// tenant's. A worker is therefore debugged with curl:
//
//	curl --unix-socket /run/sq/acme.sock 'http://sq/toc?p=notes&c=acme'
package wire

import "net/http"

// Op is one operation of the API, by the name in its path.
type Op string

// The operations. Their public methods and answers are README's API table.
const (
	Version    Op = "version"
	Select     Op = "select"
	Load       Op = "load"
	Insert     Op = "insert"
	Update     Op = "update"
	Delete     Op = "delete"
	TOC        Op = "toc"
	Get        Op = "get"
	Status     Op = "status"
	Checksum   Op = "checksum"
	Delta      Op = "delta"
	Where      Op = "where"
	JSONExport Op = "json-export"
	Documents  Op = "documents" // the list

	// The public API has one path for these, documents/{p}, and tells them
	// apart by method; the worker has an operation for each.
	Download Op = "download"
	Replace  Op = "replace"
	Remove   Op = "remove"
)

// Presence says whether an operation takes a coordinate.
type Presence uint8

// An operation refuses, may have or must have a coordinate.
const (
	Never Presence = iota
	Optional
	Required
)

// Rule is what both sides must agree on about an operation.
type Rule struct {
	Methods    []string // public methods, the canonical one first; HEAD is implied by GET
	Coordinate Presence
	Text       bool // takes a text: body or s
	Document   bool // works on one document
	Write      bool // changes data: the edge sends POST, and it must carry a quota
}

// Rules has every operation of the API.
var Rules = map[Op]Rule{
	Version:    {Methods: []string{http.MethodGet}},
	Select:     {Methods: []string{http.MethodGet}, Coordinate: Required, Document: true},
	Load:       {Methods: []string{http.MethodGet}, Coordinate: Optional, Document: true},
	Insert:     {Methods: []string{http.MethodPost, http.MethodGet}, Coordinate: Required, Text: true, Document: true, Write: true},
	Update:     {Methods: []string{http.MethodPost, http.MethodPut, http.MethodGet}, Coordinate: Required, Text: true, Document: true, Write: true},
	Delete:     {Methods: []string{http.MethodDelete, http.MethodPost, http.MethodGet}, Coordinate: Required, Document: true, Write: true},
	TOC:        {Methods: []string{http.MethodGet}, Document: true},
	Get:        {Methods: []string{http.MethodGet}, Document: true},
	Status:     {Methods: []string{http.MethodGet}, Document: true},
	Checksum:   {Methods: []string{http.MethodGet}, Document: true},
	Delta:      {Methods: []string{http.MethodPost, http.MethodGet}, Text: true, Document: true},
	Where:      {Methods: []string{http.MethodPost}, Text: true, Document: true},
	JSONExport: {Methods: []string{http.MethodGet}, Document: true},
	Documents:  {Methods: []string{http.MethodGet}},
	Download:   {Methods: []string{http.MethodGet}, Document: true},
	Replace:    {Methods: []string{http.MethodPut}, Text: true, Document: true, Write: true},
	Remove:     {Methods: []string{http.MethodDelete}, Document: true, Write: true},
}

// Method returns the method the edge uses toward the worker.
func (r Rule) Method() string {
	if r.Write || r.Text {
		return http.MethodPost
	}
	return http.MethodGet
}
