package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// archive is an initramfs: a cpio archive in the "newc" form that the kernel's
// documentation (driver-api/early-userspace/buffer-format) describes: a header of
// 13 fields of eight hexadecimal digits after the magic number, the name, the
// content, each padded to four bytes.
type archive struct {
	out   bytes.Buffer
	inode uint32
}

func newArchive() *archive { return &archive{} }

func (a *archive) folder(name string) { a.add(name, 0o040755, nil) }

func (a *archive) file(name string, mode uint32, content []byte) {
	a.add(name, 0o100000|mode, content)
}

func (a *archive) add(name string, mode uint32, content []byte) {
	a.inode++
	fields := [13]uint32{a.inode, mode, 0, 0, 1, 0, uint32(len(content)), 0, 0, 0, 0, uint32(len(name) + 1), 0}
	a.out.WriteString("070701")
	for _, f := range fields {
		fmt.Fprintf(&a.out, "%08X", f)
	}
	a.out.WriteString(name)
	a.out.WriteByte(0)
	a.pad()
	a.out.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.out.Len()%4 != 0 {
		a.out.WriteByte(0)
	}
}

// bytes ends the archive.
func (a *archive) bytes() []byte {
	a.add("TRAILER!!!", 0, nil)
	return a.out.Bytes()
}

// unwrap finds the packed kernel inside a bzImage and names the tool that unpacks
// it. The setup header (the kernel's Documentation/arch/x86/boot.rst) tells at
// 0x1f1 how many sectors of setup precede, and at 0x248 and 0x24c where behind
// them the payload begins and how long it is; its last four bytes are the unpacked
// size.
func unwrap(image []byte) (payload []byte, tool string, err error) {
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return nil, "", errors.New("is not a bzImage")
	}
	setup := int64(image[0x1f1])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*512 + int64(binary.LittleEndian.Uint32(image[0x248:]))
	length := int64(binary.LittleEndian.Uint32(image[0x24c:]))
	if length < 8 || start+length > int64(len(image)) {
		return nil, "", fmt.Errorf("its payload of %d bytes at %d lies outside of its %d bytes", length, start, len(image))
	}
	payload = image[start : start+length-4]
	for magic, tool := range map[string]string{"\x28\xb5\x2f\xfd": "zstd", "\xfd7zXZ\x00": "xz", "\x1f\x8b": "gzip"} {
		if bytes.HasPrefix(payload, []byte(magic)) {
			return payload, tool, nil
		}
	}
	return nil, "", fmt.Errorf("its payload begins with %x, which no known tool unpacks", payload[:4])
}
