package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"cairn/client"
)

const (
	job       = "often"
	volume    = "disk"
	socket    = "alpha/run/nbd"
	alphaFile = "alpha.yml"
	vaultFile = "vault.yml"
	enough    = 3 // increments to judge their cost by
)

// The two machines of the story, in one folder. Both files are left for reading.
const alphaConfig = `# The machine whose disk is protected.
global:
  state: alpha/state
  control: {sockpath: alpha/run/control}
  logging: [{type: stdout, level: info, format: human}]
  nbd: [{type: unix, path: alpha/run/nbd}]
jobs:
- name: often
  type: push
  connect: {type: tls, address: "ADDRESS", ca: pki/ca.pem, cert: pki/alpha.pem, key: pki/alpha.key, server_cn: vault}
  volumes: {disk: true}
  snapshotting: {type: periodic, prefix: cairn_, interval: 5s}
  pruning:
    keep_sender:                               # what another rule keeps stays too
    - {type: not_replicated}
    - {type: last_n, count: 2, regex: "^cairn_"}
    - {type: regex, regex: "^cairn_", negate: true}
    keep_receiver:
    - {type: last_n, count: 4, regex: "^cairn_"}
    - {type: regex, regex: "^cairn_", negate: true}
`

const vaultConfig = `# The machine that keeps the copies.
global:
  state: vault/state
  control: {sockpath: vault/run/control}
  logging: [{type: stdout, level: info, format: human}]
jobs:
- name: keep
  type: sink
  serve: {type: tls, listen: "ADDRESS", ca: pki/ca.pem, cert: pki/vault.pem, key: pki/vault.key, client_cns: [alpha]}
  root_volumes: machines
`

// story is what one scene hands to the next.
type story struct {
	*stage
	blocks []int64  // of the known file, on the disk
	writer *writer  // while it runs
	log    []uint32 // its writes, when it has ended
	loaded witness  // the snapshot taken under load
	final  witness  // the last one
}

// witness is a snapshot whose content a foreign tool has read.
type witness struct {
	name string
	sum  string
	who  string
}

// tell plays the scenes and returns the verdict.
func (s *stage) tell(ctx context.Context) (string, error) {
	t := &story{stage: s, loaded: witness{name: "under-load"}, final: witness{name: "final"}}
	defer t.endWriter()
	for _, scene := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"A disk of 1 GiB with an ext4 file system full of real files", t.disk},
		{"Two machines that trust each other's certificates", t.machines},
		{"The disk is adopted where it is, and served over NBD", t.adopt},
		{"A writer rewrites blocks while the disk is captured and replicated every 5 s", t.protect},
		{"What increments cost, and what pruning leaves", t.account},
		{"The last snapshot, and its SHA-256 as another program reads it", t.lastSnapshot},
		{"The machine burns down", t.destroy},
		{"The disk comes back from the vault", t.restore},
	} {
		s.title(scene.title)
		if err := scene.play(ctx); err != nil {
			return "", fmt.Errorf("[%d/%d] %s: %w", s.scene, scenes, scene.title, err)
		}
	}
	t.outlook()
	return fmt.Sprintf("two snapshots came back bit for bit as %s had read them, e2fsck finds nothing to mend", t.final.who), nil
}

func (t *story) endWriter() {
	if t.writer != nil {
		_, _ = t.writer.stop() // the story has failed already
		t.writer = nil
	}
}

func (t *story) disk(ctx context.Context) (err error) {
	t.blocks, err = t.makeDisk(ctx)
	return err
}

func (t *story) machines(ctx context.Context) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	for name, config := range map[string]string{alphaFile: alphaConfig, vaultFile: vaultConfig} {
		if err := os.WriteFile(t.path(name), []byte(strings.ReplaceAll(config, "ADDRESS", address)), 0o600); err != nil {
			return err
		}
	}
	for _, dir := range []string{"pki", "alpha", "alpha/run", "vault", "vault/run"} {
		if err := os.Mkdir(t.path(dir), 0o700); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"cert", "init", "--dir", "pki"}, {"cert", "issue", "alpha", "--dir", "pki"}, {"cert", "issue", "vault", "--host", "127.0.0.1", "--dir", "pki"},
		{"--config", alphaFile, "config", "check"}, {"--config", vaultFile, "config", "check"},
	} {
		if _, err := t.run(ctx, "cairn", args...); err != nil {
			return err
		}
	}
	return nil
}

// freeAddress finds a port that nobody uses.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (t *story) adopt(ctx context.Context) error {
	if _, err := t.run(ctx, "cairn", "--config", alphaFile, "volume", "adopt", volume, "disk.img"); err != nil {
		return err
	}
	for _, name := range []string{"vault", "alpha"} {
		if err := t.start(ctx, name); err != nil {
			return err
		}
	}
	if tool := findTool("nbdinfo"); tool != "" {
		_, err := t.run(ctx, "nbdinfo", "--list", "nbd+unix:///?socket="+socket)
		return err
	}
	return nil
}

func (t *story) protect(ctx context.Context) (err error) {
	// The first, full transfer first, so that increments can be told from it.
	if _, err := t.run(ctx, "cairn", "--config", alphaFile, "job", "run", job); err != nil {
		return err
	}
	if t.writer, err = startWriter(ctx, t.path(socket), volume, t.blocks); err != nil {
		return err
	}
	if err := t.wait(ctx, 6*time.Second); err != nil {
		return err
	}
	before := t.writer.writes()
	if _, err := t.run(ctx, "cairn", "--config", alphaFile, "capture", volume, "--name", t.loaded.name); err != nil {
		return err
	}
	if t.loaded.sum, t.loaded.who, err = t.exportSum(ctx, socket, volume+"@"+t.loaded.name); err != nil {
		return err
	}
	known, err := readKnown(ctx, t.path(socket), volume+"@"+t.loaded.name, t.blocks)
	if err != nil {
		return err
	}
	after := t.writer.writes()
	t.writer.mu.Lock()
	log := append([]uint32(nil), t.writer.log...)
	t.writer.mu.Unlock()
	cut, err := instant(known, log)
	if err != nil {
		return fmt.Errorf("the snapshot taken under load is not of one instant: %w", err)
	}
	if cut < before {
		return fmt.Errorf("the snapshot misses writes: it holds %d, %d were answered before it was taken", cut, before)
	}
	t.say("    it is the disk of one instant: writes 1 to %d are in it, %d to %d, made while it was read, are not", cut, cut+1, after)
	if err := t.waitForIncrements(ctx); err != nil {
		return err
	}
	_, err = t.run(ctx, "cairn", "--config", alphaFile, "status")
	return err
}

// waitForIncrements lets the writer write on for eight seconds, on a busy machine for
// as long as it takes to replicate a few increments.
func (t *story) waitForIncrements(ctx context.Context) error {
	begin := time.Now()
	for {
		if err := t.wait(ctx, time.Second); err != nil {
			return err
		}
		increments, _, _, err := t.costs(ctx)
		waited := time.Since(begin)
		if err != nil || waited > patience || waited > 8*time.Second && increments >= enough {
			return err
		}
	}
}

// wait lets time pass while the writer writes.
func (t *story) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.writer.ended:
		return fmt.Errorf("the writer ended early: %w", t.writer.err)
	case <-time.After(d):
		return nil
	}
}

func (t *story) account(ctx context.Context) error {
	if _, err := t.run(ctx, "cairn", "--config", alphaFile, "job", "history", job, "--limit", "3"); err != nil {
		return err
	}
	increments, moved, full, err := t.costs(ctx)
	if err != nil {
		return err
	}
	written := int64(t.writer.writes()) * blockSize
	if increments < enough {
		return fmt.Errorf("only %d increments were replicated", increments)
	}
	t.say("    the full transfer moved %s; %d increments moved %s in all, for %s rewritten", bytesText(full), increments, bytesText(moved), bytesText(written))
	if limit := written + written/5 + int64(increments)*(64<<10); moved > limit {
		return fmt.Errorf("increments moved %s, more than the %s that changed and a fifth", bytesText(moved), bytesText(written))
	}
	if tool := findTool("nbdinfo"); tool != "" {
		s := "nbd+unix:///" + volume + "?socket=" + socket
		if _, err := t.run(ctx, "nbdinfo", "--map=qemu:dirty-bitmap:"+t.loaded.name, "--totals", s); err != nil {
			return err
		}
		t.say("    (dirty, in 4 KiB blocks, is what an increment from %s to this moment would cost)", t.loaded.name)
	}
	if err := t.prune(ctx); err != nil {
		return err
	}
	if _, err := t.run(ctx, "cairn", "--config", alphaFile, "list", volume); err != nil {
		return err
	}
	increments, _, _, err = t.costs(ctx)
	if err != nil {
		return err
	}
	return t.checkKept(ctx, increments+1) // and the full one
}

// prune makes surplus versions between two runs of the job, which prunes too, and
// shows that a prune does what its preview says.
func (t *story) prune(ctx context.Context) error {
	if err := t.betweenRuns(ctx); err != nil {
		return err
	}
	for _, args := range [][]string{{"capture", volume, "--name", "cairn_extra_1"}, {"capture", volume, "--name", "cairn_extra_2"}, {"replicate", job}} {
		if _, err := t.run(ctx, "cairn", append([]string{"--config", alphaFile}, args...)...); err != nil {
			return err
		}
	}
	var sides []client.PruneSide
	if err := t.ask(ctx, &sides, "--config", alphaFile, "prune", "preview", job); err != nil {
		return err
	}
	if _, err := t.run(ctx, "cairn", "--config", alphaFile, "prune", "run", job, "--yes"); err != nil {
		return err
	}
	var places []client.Place
	if err := t.ask(ctx, &places, "--config", alphaFile, "list", volume); err != nil {
		return err
	}
	for _, side := range sides {
		for _, d := range side.Datasets {
			for _, v := range d.Versions {
				if v.Destroy && slices.Contains(snapshots(places, side.Side), v.Name) {
					return fmt.Errorf("%s is still at %s, which the prune was to destroy", v.Name, side.Side)
				}
			}
		}
	}
	return nil
}

// betweenRuns waits until the job's next run is a while away.
func (t *story) betweenRuns(ctx context.Context) error {
	for range 100 {
		var jobs []client.Job
		if err := t.ask(ctx, &jobs, "--config", alphaFile, "job", "list"); err != nil {
			return err
		}
		for _, j := range jobs {
			if j.Name == job && j.Running == nil && time.Until(j.Next) > 3*time.Second {
				return nil
			}
		}
		if err := t.wait(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil // the prune may find its work done by then, which is fine too
}

// snapshots are the names of the snapshots at a place.
func snapshots(places []client.Place, place string) (names []string) {
	for _, p := range places {
		for _, d := range p.Datasets {
			for _, v := range d.Versions {
				if p.Name == place && strings.HasPrefix(v.Name, "@") {
					names = append(names, v.Name)
				}
			}
		}
	}
	return names
}

// costs asks for the job's history and sums it up.
func (t *story) costs(ctx context.Context) (increments int, moved, full int64, err error) {
	var runs []client.Run
	err = t.ask(ctx, &runs, "--config", alphaFile, "job", "history", job, "--limit", "100")
	increments, moved, full = costs(runs)
	return increments, moved, full, err
}

// costs sums up the transfers of a history: how many increments, their bytes, and
// the bytes of full transfers.
func costs(runs []client.Run) (increments int, moved, full int64) {
	for _, r := range runs {
		for _, step := range r.Steps {
			switch {
			case step.Verb != "replicate" || step.State != "done":
			case step.From == "":
				full += step.Moved
			default:
				increments++
				moved += step.Moved
			}
		}
	}
	return increments, moved, full
}

// checkKept wants fewer snapshots at either place than were made.
func (t *story) checkKept(ctx context.Context, made int) error {
	var places []client.Place
	if err := t.ask(ctx, &places, "--config", alphaFile, "list", volume); err != nil {
		return err
	}
	if len(places) < 2 {
		return fmt.Errorf("the list names %d places, not two", len(places))
	}
	for _, p := range places {
		kept := len(snapshots(places, p.Name))
		if kept == 0 || kept >= made {
			return fmt.Errorf("%s keeps %d snapshots of %d that were replicated", p.Name, kept, made)
		}
		t.say("    %s keeps %d snapshots of %d that were replicated", p.Name, kept, made)
	}
	return nil
}

func (t *story) lastSnapshot(ctx context.Context) (err error) {
	w := t.writer
	t.writer = nil
	if t.log, err = w.stop(); err != nil {
		return err
	}
	t.say("    the writer has made %d writes and flushed the last", len(t.log))
	if _, err := t.run(ctx, "cairn", "--config", alphaFile, "capture", volume, "--name", t.final.name); err != nil {
		return err
	}
	if _, err := t.run(ctx, "cairn", "--config", alphaFile, "replicate", job); err != nil {
		return err
	}
	if t.final.sum, t.final.who, err = t.exportSum(ctx, socket, volume+"@"+t.final.name); err != nil {
		return err
	}
	plain, err := fileSum(t.path("disk.img"))
	if err != nil {
		return err
	}
	if plain != t.final.sum {
		return fmt.Errorf("the snapshot (%s) and the disk itself (%s) differ", t.final.sum, plain)
	}
	again, _, err := t.exportSum(ctx, socket, volume+"@"+t.loaded.name)
	if err != nil {
		return err
	}
	if again != t.loaded.sum {
		return fmt.Errorf("%s reads otherwise now than when it was taken (%s)", t.loaded.name, t.loaded.sum)
	}
	t.say("    %s equals the disk file itself, which stayed plain; %s reads as it did under load", t.final.name, t.loaded.name)
	return nil
}

func (t *story) destroy(context.Context) error {
	if err := t.stop("alpha"); err != nil {
		return err
	}
	t.say("  $ rm -r disk.img alpha/state")
	return errors.Join(os.Remove(t.path("disk.img")), os.RemoveAll(t.path("alpha/state")))
}

func (t *story) restore(ctx context.Context) error {
	for _, w := range []witness{t.loaded, t.final} {
		image := "restored-" + w.name + ".img"
		if _, err := t.run(ctx, "cairn", "--config", alphaFile, "restore", volume+"@"+w.name, "--at", "vault", "--to", "file:"+image); err != nil {
			return err
		}
		sum, err := fileSum(t.path(image))
		if err != nil {
			return err
		}
		t.say("  $ sha256sum %s\n    %s", image, sum)
		if sum != w.sum {
			return fmt.Errorf("%s differs from what %s read before the disaster (%s)", image, w.who, w.sum)
		}
		if _, err := t.run(ctx, "e2fsck", "-fn", image); err != nil {
			return err
		}
	}
	if _, err := t.quiet(ctx, "debugfs", "-R", "dump /"+knownFile+" "+knownFile, "restored-"+t.final.name+".img"); err != nil {
		return err
	}
	known, err := os.ReadFile(t.path(knownFile))
	if err != nil {
		return err
	}
	cut, err := instant(known, t.log)
	if err != nil {
		return fmt.Errorf("%s in the restored file system: %w", knownFile, err)
	}
	if int(cut) != len(t.log) {
		return fmt.Errorf("%s in the restored file system holds %d of %d writes", knownFile, cut, len(t.log))
	}
	t.say("    equal, both; and %s in the restored file system holds every one of %d writes", knownFile, len(t.log))
	return t.stop("vault")
}

func (t *story) outlook() {
	t.say(`
Everything lies in %s:
  alpha.yml, vault.yml            the two configurations: all there is to set up
  alpha/daemon.log, vault/…       what the daemons said
  restored-final.img              the disk that came back
Look next at docs/guide/commands.md, docs/guide/configuration.md and docs/ARCHITECTURE.md; try
  cd %s && %s --config vault.yml list`, t.dir, t.dir, t.cairn)
}
