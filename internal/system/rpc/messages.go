package rpc

import (
	"cairn"
)

// Methods. Numbers cross the wire: append, never renumber.
const (
	methodList     = 1
	methodSnapshot = 2
	methodBookmark = 3
	methodDestroy  = 4
	methodLease    = 5
	methodEstimate = 6
	methodSend     = 7
	methodReceive  = 8
	methodAbort    = 9
	methodOpen     = 10
	methodChanged  = 11
	methodRollback = 12
	methodResize   = 13
	methodRename   = 14
	methodVerify   = 15
	methodSeal     = 16
	methodDigest   = 17
	methodHeal     = 18

	methodRead    = 32 // on the connection of an opened version
	methodExtents = 33
)

var methodNames = map[uint8]string{
	methodList: "list", methodSnapshot: "snapshot", methodBookmark: "bookmark", methodDestroy: "destroy",
	methodLease: "lease", methodEstimate: "estimate", methodSend: "send", methodReceive: "receive",
	methodAbort: "abort receive", methodOpen: "open version", methodChanged: "list changes", methodRollback: "roll back",
	methodResize: "resize", methodRename: "rename", methodVerify: "verify", methodSeal: "seal",
	methodDigest: "digest", methodHeal: "heal",
	methodRead: "read", methodExtents: "list extents",
}

// hello is each side's first message on a control connection.
type hello struct {
	software  string          // for people: name and version of the program
	place     string          // what the caller calls itself; empty from the serving side
	abilities []cairn.Ability // the serving side's; the caller's are those it knows how to use
	info      cairn.Info      // the serving side's
	calls     int             // that may run at once in the session
}

func (h *hello) code(c *coder) {
	text(c, &h.software)
	text(c, &h.place)
	list(c, &h.abilities, 1, text[cairn.Ability])
	codeInfo(c, &h.info)
	small(c, &h.calls)
}

// request begins a call. The arguments follow in the same message.
type request struct {
	method    uint8
	window    int // bytes of rows that may come before credit is given
	arguments message
}

func (r *request) code(c *coder) {
	small(c, &r.method)
	small(c, &r.window)
	if r.arguments != nil {
		r.arguments.code(c)
	}
}

type credit struct{ bytes uint64 }

func (m *credit) code(c *coder) { c.uint(&m.bytes) }

// reports is the payload of a heartbeat: progress of running calls that moved
// since the last one.
type reports []report

type report struct {
	id       uint32
	phase    string
	counters []counter
}

type counter struct {
	name  string
	level int64
}

func (m *reports) code(c *coder) { list(c, (*[]report)(m), 3, codeReport) }

func codeReport(c *coder, r *report) {
	small(c, &r.id)
	text(c, &r.phase)
	list(c, &r.counters, 2, func(c *coder, n *counter) {
		text(c, &n.name)
		c.int(&n.level)
	})
}

type (
	listRequest     struct{ query cairn.Query }
	snapshotRequest struct {
		name     string
		datasets []string
		atomic   bool
	}
	snapshotAnswer  struct{ captured []cairn.Captured }
	bookmarkRequest struct {
		dataset string
		of      cairn.VersionID
		name    string
		degrade bool
	}
	versionAnswer  struct{ version cairn.Version }
	destroyRequest struct {
		dataset string
		ids     []cairn.VersionID
	}
	destroyAnswer   struct{ results []error }
	leaseRequest    struct{ set cairn.LeaseSet }
	estimateRequest struct{ steps []cairn.Step }
	estimateAnswer  struct{ sizes []int64 }
	sendRequest     struct {
		step   cairn.Step
		accept []cairn.Format
	}
	receiveRequest struct {
		header  cairn.StreamHeader
		options cairn.ReceiveOptions
	}
	receiveAnswer  struct{ received cairn.Received }
	datasetRequest struct{ dataset string }
	versionRequest struct {
		dataset string
		id      cairn.VersionID
	}
	changedRequest struct {
		dataset  string
		from, to cairn.VersionID
	}
	rollbackRequest struct {
		dataset      string
		to           cairn.VersionID
		destroyNewer bool
	}
	resizeRequest struct {
		dataset string
		size    int64
	}
	renameRequest struct{ from, to string }
	sealRequest   struct {
		dataset string
		sealed  bool
	}
	coverageAnswer struct{ coverage cairn.Coverage }
	digestRequest  struct {
		dataset string
		id      cairn.VersionID
		query   cairn.DigestQuery
	}
	healRequest struct {
		dataset string
		id      cairn.VersionID
		patches []cairn.Patch
		options cairn.HealOptions
	}
	healAnswer struct{ mendings []cairn.Mending }

	// digestRows is one row of a digest stream.
	digestRows struct{ digests []cairn.Digest }

	// rangeRequest is the argument of methodRead and methodExtents.
	rangeRequest struct{ offset, length int64 }
	readAnswer   struct{ data []byte }

	// extentRows is one row of an extent stream.
	extentRows struct{ extents []cairn.Extent }

	// ready says which data connection a call waits for.
	ready struct {
		token  []byte
		header cairn.StreamHeader // of methodSend
		size   int64              // of methodOpen
	}
	attach struct{ token []byte }

	// end is the last frame of a data connection.
	end struct {
		bytes int64
		err   error
	}
)

func (m *listRequest) code(c *coder) { codeQuery(c, &m.query) }

func (m *snapshotRequest) code(c *coder) {
	text(c, &m.name)
	list(c, &m.datasets, 1, text[string])
	c.bool(&m.atomic)
}

func (m *snapshotAnswer) code(c *coder) {
	list(c, &m.captured, minVersion+2, func(c *coder, r *cairn.Captured) {
		text(c, &r.Dataset)
		codeVersion(c, &r.Version)
		codeError(c, &r.Err)
	})
}

func (m *bookmarkRequest) code(c *coder) {
	text(c, &m.dataset)
	codeVersionID(c, &m.of)
	text(c, &m.name)
	c.bool(&m.degrade)
}

func (m *versionAnswer) code(c *coder) { codeVersion(c, &m.version) }

func (m *destroyRequest) code(c *coder) {
	text(c, &m.dataset)
	list(c, &m.ids, minVersionID, codeVersionID)
}

func (m *destroyAnswer) code(c *coder) { list(c, &m.results, 1, codeError) }

func (m *leaseRequest) code(c *coder) {
	text(c, &m.set.Dataset)
	text(c, &m.set.Owner)
	small(c, &m.set.Purpose)
	list(c, &m.set.Versions, minVersionID, codeVersionID)
}

func (m *estimateRequest) code(c *coder) { list(c, &m.steps, minStep, codeStep) }
func (m *estimateAnswer) code(c *coder)  { list(c, &m.sizes, 1, (*coder).int) }

func (m *sendRequest) code(c *coder) {
	codeStep(c, &m.step)
	list(c, &m.accept, 1, text[cairn.Format])
}

func (m *receiveRequest) code(c *coder) {
	codeHeader(c, &m.header)
	text(c, &m.options.Owner)
}

func (m *receiveAnswer) code(c *coder) {
	list(c, &m.received.Versions, minVersionID, codeVersionID)
	c.int(&m.received.Bytes)
}

func (m *datasetRequest) code(c *coder) { text(c, &m.dataset) }

func (m *versionRequest) code(c *coder) {
	text(c, &m.dataset)
	codeVersionID(c, &m.id)
}

func (m *changedRequest) code(c *coder) {
	text(c, &m.dataset)
	codeVersionID(c, &m.from)
	codeVersionID(c, &m.to)
}

func (m *rollbackRequest) code(c *coder) {
	text(c, &m.dataset)
	codeVersionID(c, &m.to)
	c.bool(&m.destroyNewer)
}

func (m *resizeRequest) code(c *coder) {
	text(c, &m.dataset)
	c.int(&m.size)
}

func (m *renameRequest) code(c *coder) {
	text(c, &m.from)
	text(c, &m.to)
}

func (m *sealRequest) code(c *coder) {
	text(c, &m.dataset)
	c.bool(&m.sealed)
}

func (m *digestRequest) code(c *coder) {
	text(c, &m.dataset)
	codeVersionID(c, &m.id)
	codeSum(c, &m.query.Nonce)
	c.int(&m.query.Unit)
	list(c, &m.query.Extents, 3, codeExtent)
}

func (m *digestRows) code(c *coder) {
	list(c, &m.digests, 4, func(c *coder, d *cairn.Digest) {
		c.int(&d.Offset)
		c.int(&d.Length)
		c.bool(&d.Zero)
		c.bool(&d.Bad)
		if !d.Zero && !d.Bad {
			codeSum(c, &d.Sum)
		}
	})
}

func (m *healRequest) code(c *coder) {
	text(c, &m.dataset)
	codeVersionID(c, &m.id)
	list(c, &m.patches, 2, func(c *coder, p *cairn.Patch) {
		c.int(&p.Offset)
		c.bytes(&p.Data)
	})
	c.bool(&m.options.DryRun)
	c.bool(&m.options.Whole)
}

func (m *healAnswer) code(c *coder) { list(c, &m.mendings, 1, small[cairn.Mending]) }

func (m *coverageAnswer) code(c *coder) { codeCoverage(c, &m.coverage) }

func (m *rangeRequest) code(c *coder) {
	c.int(&m.offset)
	c.int(&m.length)
}

// code hands the data out as it lies in the message, without a copy.
func (m *readAnswer) code(c *coder) {
	if c.reading {
		m.data = c.take(uint64(len(c.buf)))
		return
	}
	c.buf = m.data
}

func (m *extentRows) code(c *coder) {
	at := int64(0)
	list(c, &m.extents, 3, func(c *coder, e *cairn.Extent) {
		skip := e.Offset - at
		c.int(&skip)
		c.int(&e.Length)
		small(c, &e.Kind)
		at += skip + e.Length
		if c.reading {
			e.Offset = at - e.Length
		}
	})
}

func (m *ready) code(c *coder) {
	c.bytes(&m.token)
	codeHeader(c, &m.header)
	c.int(&m.size)
}

func (m *attach) code(c *coder) { c.bytes(&m.token) }

func (m *end) code(c *coder) {
	c.int(&m.bytes)
	codeError(c, &m.err)
}
