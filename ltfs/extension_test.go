package ltfs_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"cairn/ltfs"
)

// What is put into an index is read back from its text, beside elements of others.
func TestExtensionSurvives(t *testing.T) {
	ix := small(7)
	ix.Unknown = []byte("<vendorthing><a>1</a></vendorthing>\n")
	want := ltfs.Extension{IndexBytes: 12345, OpenCount: 2, Open: []string{"/a&b/c:d", "/ü\x01<x>"}}
	ix.SetExtension(ltfs.Extension{OpenCount: 99})
	ix.SetExtension(want)
	var text bytes.Buffer
	if _, err := ix.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	again, err := ltfs.ReadIndex(&text)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := again.Extension(); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, ok)
	}
	if !strings.Contains(string(again.Unknown), "<vendorthing><a>1</a></vendorthing>") || strings.Count(string(again.Unknown), "<cairnstate") != 1 {
		t.Errorf("%s", again.Unknown)
	}
	// Another writer copies the element into its next index: it is stale there.
	again.Generation++
	if got, ok := again.Extension(); ok {
		t.Errorf("a stale element is taken for true: %+v", got)
	}
}

func TestExtensionDamaged(t *testing.T) {
	for _, text := range []string{"<cairnstate generation=\"7\"><indexbytes>x</indexbytes></cairnstate>", "<cairnstate", "<cairnstate generation=\"7\">text</cairnstate>"} {
		ix := small(7)
		ix.Unknown = []byte(text)
		if got, ok := ix.Extension(); ok {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

func small(generation uint64) *ltfs.Index {
	return &ltfs.Index{Version: ltfs.Version, Creator: "c", VolumeUUID: "00000000-0000-4000-8000-000000000001", Generation: generation,
		Self: ltfs.Location{Partition: 'b', Block: 5}, HighestUID: 1, Root: &ltfs.Directory{UID: 1}}
}
