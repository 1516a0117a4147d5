package zfs_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/zfsstream"
	"cairn/internal/system/zfs"
	"cairn/internal/testkit/fakezfs"
)

// cpu is the CPU time of this process and of its children that have ended.
func cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// passing is a ZFS whose zfs send is a file and whose zfs receive is the null device.
func passing(b *testing.B, size int64) (ep *cairn.Endpoint, id cairn.VersionID, stream string) {
	f := fakezfs.New(b)
	f.Pool("tank")
	f.Run("create", "-V", "1048576", "tank/a")
	f.Run("snapshot", "tank/a@1")
	stream = filepath.Join(b.TempDir(), "stream")
	program := filepath.Join(b.TempDir(), "zfs")
	script := fmt.Sprintf("#!/bin/sh\ncase $1 in send) exec cat %s ;; receive) exec cat >/dev/null ;; esac\nexec %s \"$@\"\n", stream, f.ZFS)
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		b.Fatal(err)
	}
	p, err := zfs.Open(b.Context(), zfs.Options{ZFS: program})
	if err != nil {
		b.Fatal(err)
	}
	ep = p.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}})
	for l, err := range ep.Lister.List(b.Context(), cairn.Query{Filter: cairn.All, Names: []string{"tank/a"}, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			b.Fatal(err)
		}
		id = l.Versions[0].VersionID
	}
	writeStream(b, stream, id, size)
	return ep, id, stream
}

func writeStream(b *testing.B, path string, id cairn.VersionID, size int64) {
	b.Helper()
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	out := bufio.NewWriter(file)
	w, err := zfsstream.NewWriter(out, zfsstream.WriterOptions{Name: "tank/a@1", To: id.GUID, Created: time.Unix(1700000000, 0), Size: size})
	piece := make([]byte, 1<<20)
	for i := range piece {
		piece[i] = byte(i * 7)
	}
	for off := int64(0); err == nil && off < size; off += int64(len(piece)) {
		err = w.Data(off, piece)
	}
	if err == nil {
		err = w.End()
	}
	if err = errors.Join(err, out.Flush(), file.Close()); err != nil {
		b.Fatal(err)
	}
}

// What a stream costs on its way through us, beside the two programs and the pipes of
// a shell.
func BenchmarkPassing(b *testing.B) {
	const size = 256 << 20
	ep, id, stream := passing(b, size)
	b.SetBytes(size)
	began := cpu(b)
	n := 0
	for b.Loop() {
		s, err := ep.Sender.Send(b.Context(), cairn.Step{Dataset: "tank/a", To: id}, []cairn.Format{cairn.FormatZFS})
		if err != nil {
			b.Fatal(err)
		}
		s.Header.Dataset = fmt.Sprintf("tank/to%d", n)
		if _, err := ep.Receiver.Receive(b.Context(), s, cairn.ReceiveOptions{}); err != nil {
			b.Fatal(err)
		}
		n++
	}
	perGiB := func(spent time.Duration) float64 { return spent.Seconds() * (1 << 30) / float64(n*size) }
	ours := cpu(b) - began
	began = cpu(b)
	for range n {
		if out, err := command("cat " + stream + " | cat >/dev/null"); err != nil {
			b.Fatal(err, out)
		}
	}
	b.ReportMetric(perGiB(ours), "cpu-s/GiB")
	b.ReportMetric(perGiB(cpu(b)-began), "pipe-cpu-s/GiB")
}

func command(line string) (string, error) {
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	return string(out), err
}
