package ltfs

import (
	"bytes"
	"strconv"
	"strings"
)

// Extension is what Cairn adds to an index, in an element of its own below the
// root ("cairnstate", docs/formats/ltfs.md). Other software keeps elements it does
// not know and copies them into later indexes, where what they say is no longer
// true: the element carries the generation it belongs to.
type Extension struct {
	IndexBytes uint64   // all full indexes of the data partition take, up to and with the one before this
	OpenCount  int      // files that were open for writing, or not all on tape, when the index was written
	Open       []string // their paths; the first MaxOpenPaths of them
}

// MaxOpenPaths bounds Extension.Open.
const MaxOpenPaths = 1000

const extensionTag = "cairnstate"

// Extension reads the element; ok is false when there is none or when it belongs
// to another generation.
func (ix *Index) Extension() (x Extension, ok bool) {
	_, x, ok = ix.splitExtension()
	return x, ok
}

// SetExtension puts the element into the index for its present Generation.
func (ix *Index) SetExtension(x Extension) {
	rest, _, _ := ix.splitExtension()
	var out bytes.Buffer
	e := newEncoder(&out)
	e.raw("<" + extensionTag + ` generation="` + strconv.FormatUint(ix.Generation, 10) + "\">\n")
	e.number("indexbytes", x.IndexBytes)
	e.number("openforwritecount", uint64(x.OpenCount))
	for _, path := range x.Open[:min(len(x.Open), MaxOpenPaths)] {
		e.name("path", path)
	}
	e.raw("</" + extensionTag + ">\n")
	if _, err := e.finish(); err != nil { // a path that XML cannot hold: LTFS names can always be encoded
		return
	}
	ix.Unknown = append(bytes.Clone(rest), out.Bytes()...)
}

// splitExtension separates the element from the other unknown ones.
func (ix *Index) splitExtension() (rest []byte, x Extension, ok bool) {
	if !bytes.Contains(ix.Unknown, []byte("<"+extensionTag)) {
		return ix.Unknown, x, false
	}
	d := &decoder{scanner: newScanner("index", strings.NewReader("<unknown>"+string(ix.Unknown)+"</unknown>"))}
	if err := d.root("unknown"); err != nil {
		return ix.Unknown, x, false
	}
	err := d.children("unknown", func(name string) error {
		if name != extensionTag {
			return d.unknown(&rest)
		}
		generation, _ := attribute(d.attrs, "generation")
		ok = string(generation) == strconv.FormatUint(ix.Generation, 10)
		return d.extension(&x)
	})
	if err != nil {
		return ix.Unknown, Extension{}, false
	}
	return rest, x, ok
}

func (d *decoder) extension(x *Extension) error {
	return d.children(extensionTag, func(name string) (err error) {
		var n uint64
		switch name {
		case "indexbytes":
			x.IndexBytes, err = d.number(name)
		case "openforwritecount":
			n, err = d.number(name)
			x.OpenCount = int(min(n, 1<<31-1))
		case "path":
			var path string
			if path, err = d.nameText(name); len(x.Open) < MaxOpenPaths {
				x.Open = append(x.Open, path)
			}
		default:
			err = d.skip()
		}
		return err
	})
}
