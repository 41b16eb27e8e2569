package wire

// Header names between edge and worker. None of them is ever taken from a
// client: the edge builds the worker's request from nothing.
const (
	// HeaderQuota is the tenant's quota in bytes, decimal, 0 for none. Every
	// write carries it, so a changed quota holds from the next request on.
	HeaderQuota = "SQ-Quota"

	// HeaderError carries the message of a failed delta, whose body must stay
	// empty: an existing editor merges any delta body into the user's file.
	HeaderError = "SQ-Error"
)

// Query parameters of a worker's request.
const (
	ParamAddress  = "c"
	ParamDocument = "p"
	ParamAlgo     = "algo"  // where: "xor" or "checksum"
	ParamLimit    = "limit" // where: shortest scroll that counts for xor, bytes
)

// Path of a worker that is no operation. It takes c like the others.
const PathStats = "/stats" // GET: Stats as JSON

// Descriptors a worker inherits from the edge.
const (
	// FDListener is a unix stream socket, which the edge has bound to the tenant's
	// path, and which listens there, when the assignment comes; not before.
	FDListener = 3
	// FDLifeline is the read end of a pipe. The edge writes one line to it, the
	// [Assignment], and no more. Its end of file means that the edge is gone or
	// wants the worker to go: the worker drains and exits, at once where it has no
	// assignment yet.
	FDLifeline = 4
	// FDReady is the write end of a pipe. The worker writes two lines: [StandingBy]
	// once it waits for its assignment, and after that [Ready] and the id of its data
	// directory behind a space, or the reason why it cannot serve, behind [Refused],
	// [Absent] or neither. Then it closes it.
	FDReady = 5
)

// StandingBy is the line on [FDReady] by which a worker says that it waits for its
// assignment.
const StandingBy = "standing by"

// Ready begins the line on [FDReady] that means the worker serves.
const Ready = "ready"

// Refused begins the line on [FDReady] by which a worker refuses its data
// directory: what it holds is not, or may not be, the tenant's own. Starting the
// worker again does not help until a person has put that right. The reason that
// follows is for the log.
const Refused = "refused: "

// Absent begins the line on [FDReady] by which a worker says that the data
// directory is not the one whose id it was given: a disk that is not mounted, or a
// directory that somebody emptied. The reason that follows is for the log.
const Absent = "absent: "

// DocumentExt ends the name of every document's file.
const DocumentExt = ".phext"

// MissingScroll is what delta answers for a scroll that only the client has.
const MissingScroll = "---sq:Scroll-Missing---"

// Stats is a worker's own account of its tenant's data.
type Stats struct {
	Tenant       string `json:"tenant"`
	StorageBytes int64  `json:"storage_bytes"` // text of all documents, breaks included: what the quota counts
	Documents    int    `json:"documents"`
	Scrolls      int64  `json:"scrolls"`
	Sequence     uint64 `json:"sequence"`  // of the last acknowledged change
	LogBytes     int64  `json:"log_bytes"` // of the write-ahead log on disk

	// Of the worker since it started:
	Misdirected uint64    `json:"misdirected"` // requests for another tenant, which it refused: 0, or the edge is wrong
	Syncs       Histogram `json:"syncs"`       // of the log; one may serve many writers
	Checkpoints Histogram `json:"checkpoints"` // each of one document
}

// Document is one entry of the documents operation.
type Document struct {
	Name     string `json:"name"`
	Bytes    int64  `json:"bytes"`    // length of the text, breaks included
	Scrolls  int64  `json:"scrolls"`  // that are not empty
	Modified string `json:"modified"` // RFC 3339, UTC; empty where it is not known

	// Error says why the document cannot be served. Its other numbers are then
	// what is known without reading it.
	Error string `json:"error,omitempty"`
}

// What a worker takes at most, in bytes. The edge's own limits are lower or
// equal, so a worker meets these only when somebody goes around the edge.
const (
	MaxText     = 256 << 20 // the text of one scroll operation
	MaxDocument = 16 << 30  // a document put whole
)

// The memory in MiB that a worker may hold documents in. How a worker keeps to it
// is written in worker/engine/README.md.
const (
	DefaultMemory = 64
	MinMemory     = 8
	MaxMemory     = 1 << 20
)

// MaxThreads is how many threads a worker may have where they are bounded: by its
// group's pids.max, or as the only process of its user. The Go runtime makes five
// to nine, and one more for each call of the kernel that waits for the disk; it
// ends a process that cannot have one, so this is for those that went wrong.
const MaxThreads = 512

// ProductVersion is what the version operation answers. A release sets it at
// link time.
var ProductVersion = "0.1.0"
