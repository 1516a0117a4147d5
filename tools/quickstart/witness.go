package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"

	"cairn/internal/front/nbd/nbdclient"
)

// exportSum reads an export whole with a program that is not ours where there is
// one, and returns the SHA-256 of its content and who read it.
func (s *stage) exportSum(ctx context.Context, socket, export string) (sum, who string, err error) {
	uri := fmt.Sprintf("nbd+unix:///%s?socket=%s", export, socket)
	if tool := findTool("nbdcopy"); tool != "" {
		s.say("  $ nbdcopy '%s' - | sha256sum", uri)
		sum, err = s.pipeSum(ctx, tool, uri, "-")
		who = "nbdcopy"
	} else if tool := findTool("qemu-img"); tool != "" {
		s.tools["qemu-img"] = tool
		if _, err = s.run(ctx, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri, "seen.img"); err == nil {
			s.say("  $ sha256sum seen.img")
			sum, err = fileSum(s.path("seen.img"))
		}
		who = "qemu-img"
		_ = os.Remove(s.path("seen.img"))
	} else {
		s.say("    (neither nbdcopy nor qemu-img is installed: our own NBD client reads %s)", export)
		sum, err = clientSum(ctx, s.path(socket), export)
		who = "our own client"
	}
	if err != nil {
		return "", who, err
	}
	s.say("    %s", sum)
	return sum, who, nil
}

// pipeSum is the SHA-256 of what a tool writes.
func (s *stage) pipeSum(ctx context.Context, tool string, args ...string) (string, error) {
	c := s.command(ctx, tool, args...)
	h := sha256.New()
	c.Stdout, c.Stderr = h, s.out
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s: %w", line(tool, args), err)
	}
	return text(h), nil
}

func text(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func clientSum(ctx context.Context, socket, export string) (string, error) {
	c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: socket, Export: export})
	if err != nil {
		return "", err
	}
	h := sha256.New()
	b := make([]byte, 4<<20)
	for off := int64(0); off < c.Size(); off += int64(len(b)) {
		b = b[:min(int64(len(b)), c.Size()-off)]
		if err := c.ReadAt(ctx, b, off); err != nil {
			c.Abandon()
			return "", err
		}
		h.Write(b)
	}
	return text(h), c.Close()
}

// fileSum is the SHA-256 of a file.
func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, f, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return text(h), nil
}
