package cairn

// Purpose says why a lease is held.
type Purpose uint8

// The purposes; numbers cross the wire.
const (
	PurposePlan      Purpose = 1 // a plan relies on it; lives in memory, ends with its session
	PurposeStep      Purpose = 2 // a running or cut step relies on it
	PurposeTentative Purpose = 3 // cursor-to-be of a running step
	PurposeCursor    Purpose = 4 // last version the receiver confirmed
	PurposeReceived  Purpose = 5 // last version received, at the receiver
	PurposePin       Purpose = 6 // a person or an overlay holds it
	PurposeForeign   Purpose = 7 // a hold that is not ours
)

var purposeNames = [...]string{"", "plan", "step", "tentative", "cursor", "received", "pin", "foreign"}

// String is the purpose's word.
func (p Purpose) String() string {
	if int(p) < len(purposeNames) {
		return purposeNames[p]
	}
	return "purpose"
}

// Lease is the right of Owner to rely on a version: it is not destroyed while the
// lease stands. A PurposeCursor lease is satisfied by a bookmark of the same GUID.
type Lease struct {
	Owner   string // the job's name
	Purpose Purpose
}

// LeaseSet is a named set of leases; setting it replaces the set.
type LeaseSet struct {
	Dataset  string
	Owner    string
	Purpose  Purpose
	Versions []VersionID
}
