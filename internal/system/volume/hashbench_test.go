//go:build unix

package volume_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// BenchmarkTable sends and receives noise with and without block hash tables: what
// a table costs is the difference in cpu-s/GiB. The disks are memory.
func BenchmarkTable(b *testing.B) {
	const size = 64 << 20
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("hashes=%v", on), func(b *testing.B) {
			var send, both time.Duration
			var table int64
			for b.Loop() {
				disk, v := tabled(b, size, on, false)
				if err := v.Device().WriteAt(ctx, noise(1, size), 0, 0); err != nil {
					b.Fatal(err)
				}
				s, err := v.Snapshot(ctx, "@a")
				if err != nil {
					b.Fatal(err)
				}
				_, replica := tabled(b, size, on, true)
				began := cpuTime()
				if _, err := readStream(v, cairn.VersionID{}, s.VersionID); err != nil {
					b.Fatal(err)
				}
				send += cpuTime() - began
				if err := v.SetHashes(ctx, false); err != nil { // so that it is the receiver's
					b.Fatal(err)
				}
				began = cpuTime()
				st, err := v.Send(ctx, cairn.Step{Dataset: "db", To: s.VersionID}, []cairn.Format{cairn.FormatBlocks})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := replica.Receive(ctx, st, cairn.ReceiveOptions{}); err != nil {
					b.Fatal(err)
				}
				both += cpuTime() - began
				table = tableBytes(b, disk)
			}
			per := float64(b.N) * size / (1 << 30)
			b.ReportMetric(send.Seconds()/per, "send-cpu-s/GiB")
			b.ReportMetric(both.Seconds()/per, "send+receive-cpu-s/GiB")
			b.ReportMetric(float64(table), "table-bytes")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func tabled(b *testing.B, size int64, on, sealed bool) (*fakedisk.Disk, *volume.Volume) {
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: size, Sealed: sealed}); err != nil {
		b.Fatal(err)
	}
	v, err := volume.Open(ctx, disk, volume.Options{Hashes: &on})
	if err != nil {
		b.Fatal(err)
	}
	return disk, v
}

// tableBytes is the largest size that a table of the disk had.
func tableBytes(b *testing.B, disk *fakedisk.Disk) (most int64) {
	for _, e := range disk.Log() {
		if e.Op == fakedisk.OpWrite && strings.HasPrefix(e.Name, "hash-") {
			most = max(most, e.Off+e.Len)
		}
	}
	return most
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // of oneself it cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
