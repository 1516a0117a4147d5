package scsitape_test

import (
	"testing"

	"cairn/internal/mech/scsi"
	"cairn/internal/testkit/scsitape"
)

// The target answers by the rules of SPC: a unit attention is told once, to the next
// command; an operation code it does not know is an illegal request.
func TestTargetAnswers(t *testing.T) {
	d := scsitape.New()
	carry := func(cdb []byte, in int) scsi.Result {
		t.Helper()
		r, err := d.Carry(scsi.Command{CDB: cdb, In: make([]byte, in)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	ready := func() bool { return len(carry(scsi.TestUnitReady(), 0).Sense) == 0 }
	for range 3 { // what is told after power on
		ready()
	}
	if !ready() {
		t.Error("it does not become ready")
	}
	d.Attend(0x2800) // the medium may have changed
	if ready() || !ready() {
		t.Error("a unit attention is not told exactly once")
	}
	r := carry([]byte{0xff, 0, 0, 0, 0, 0}, 0)
	if len(r.Sense) == 0 {
		t.Error("an unknown operation code is carried out")
	}
	if n := d.Seen(scsi.TestUnitReady()[0]); n != 6 {
		t.Errorf("it counts %d commands", n)
	}
}
