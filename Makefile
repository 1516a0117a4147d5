# Two commands do all the set-up: make quickstart, make test. `make help` lists the rest.
# Everything that is made lies in .work (and the cairn binary beside this file).

env = . ./tools/env.sh
go  = $(env) && nice -n 5 go
pkgs = ./...

.PHONY: help build quickstart test race lint vet-all tidy crash rot kill interop fuzz check-rules bench-plan bench-volume bench-memory bench-tape tape-tears tape-errors tape-cuts tape-syncs posix bench-incremental bench-block zfs-kills vm-prepare test-vm kill-nbd resume clean matrix
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

build: ## build ./cairn, static, without a C compiler
	@$(env) && CGO_ENABLED=0 go build -trimpath -o cairn ./cmd/cairn

quickstart: ## protect a real disk end to end, in under three minutes
	@need_kib=6000000; $(env) && CGO_ENABLED=0 go build -trimpath -o .work/bin/cairn ./cmd/cairn && \
	  CGO_ENABLED=0 go build -trimpath -o .work/bin/quickstart ./tools/quickstart && \
	  exec .work/bin/quickstart -cairn .work/bin/cairn -dir .work/quickstart

test: ## every package's tests, without root, network or C compiler
	@$(env) && CGO_ENABLED=0 go run ./tools/runtests $(TESTFLAGS) $(pkgs)

race: ## the same under the race detector (needs a C compiler)
	@$(env) && CGO_ENABLED=1 go run ./tools/runtests -race $(TESTFLAGS) $(pkgs)

lint: vet-all ## go vet for four systems, and the linters of .golangci.yml
	@$(env) && test -x .work/bin/golangci-lint || GOBIN="$$(pwd)/.work/bin" GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	@$(env) && .work/bin/golangci-lint run $(pkgs) && echo "lint: clean"

# What is not tied to Linux has to build elsewhere from the first day on.
portable = . ./ltfs/... ./client/... ./internal/policy/... ./internal/format/... $(addsuffix /...,$(wildcard ./internal/system/zfs)) ./internal/app/cli/...
vet-all: ## go vet on Linux, and of the portable packages for freebsd, darwin and solaris
	@$(env) && go vet $(pkgs)
	@$(env) && for os in freebsd darwin solaris; do \
	  GOOS=$$os CGO_ENABLED=0 go vet $(portable) || exit 1; echo "vet: $$os clean"; done

tidy: ## the rules about the tree itself
	@$(env) && go test -count=1 ./tools/tidy

crash: ## power cuts: every prefix of 300 workloads, 10,000 random outcomes, and every planted fault caught (CRASHFLAGS="-seeds 10 -samples 500")
	@$(env) && CAIRN_SCALE=full go test -count=1 -timeout 60m ./test/crash $(CRASHFLAGS) && echo "crash: no violation, every planted fault caught"

rot: ## every block of every file of a store spoiled in seven ways, and 3,000 pairs: each read is right or an error
	@$(env) && CAIRN_SCALE=full go test -count=1 -timeout 60m -v -run 'Rot' ./internal/system/volume

kill: ## kill -9 of either daemon at 50 random points: the pair converges
	@$(env) && CAIRN_SCALE=full go test -count=1 -timeout 30m -run Kill ./test/script && echo "kill: the pair converged each time"

kill-nbd: ## 2,000 times kill -9 of the server of a volume under four NBD writers: nothing acknowledged is lost
	@$(env) && go test -count=1 -timeout 60m -v -run KilledServer ./test/script -kills 2000 && echo "kill-nbd: nothing acknowledged was lost, no snapshot changed"

resume: ## 2 GiB cut 20 times and 20 transfers cut once: at most 4 MiB moved again per cut; power cuts on either side
	@$(env) && go test -count=1 -timeout 60m -v -run CutTransfersResume ./test/verbs -resume-mib 2048 -resume-cuts 20 -resume-onces 20 && \
	  CAIRN_SCALE=full go test -count=1 -timeout 60m -v -run 'ReceiveCuts|SenderLosesPower' ./test/crash && echo "resume: at most one window moved again per cut"

interop: ## foreign NBD tools on every kind of export, at full size
	@$(env) && CAIRN_SCALE=full go test -count=1 -timeout 20m ./test/interop && echo "interop: good"

fuzztime = 10m
fuzz: ## every parser that meets foreign bytes, ten minutes each (fuzztime=30s)
	@$(env) && set -e; grep -rlE '^func Fuzz' --include=*_test.go . | while read -r file; do \
	  for f in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' $$file); do \
	    echo "fuzz: $$f in $$(dirname $$file)"; \
	    go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(fuzztime) -fuzzminimizetime 20x $$(dirname $$file) </dev/null; done; done; echo "fuzz: no crash"

matrix: ## every kind of sender to every kind of receiver: full, incremental, from a bookmark, resumed, cancelled, over every transport
	@$(env) && CAIRN_SCALE=full go test -count=1 -timeout 60m ./test/matrix && echo "matrix: good"

bench-plan: ## plan and prune ten thousand datasets of a thousand versions, within 10 CPU s and 128 MiB
	@$(env) && CAIRN_SCALE=full go test -count=1 -v ./test/scale && echo "bench-plan: done"

bench-volume: ## pause of a capture under load, a 1 TiB volume, cost of writes and increments
	@$(env) && CAIRN_SCALE=full go test -count=1 -v -run 'Pause|Terabyte' -bench . ./internal/system/volume && echo "bench-volume: done"

bench-memory: ## a terabyte with fifty snapshots: what a process that opens and reads all of them has resident
	@need_kib=4000000; $(env) && CAIRN_SCALE=full go test -count=1 -v -timeout 60m -run 'MemoryOfMany|Terabyte' ./internal/system/volume && echo "bench-memory: done"

check-rules: ## every rule of the conformance suite against every planted fault
	@$(env) && CAIRN_SCALE=full go test -count=1 ./internal/work/check && echo "check-rules: each fault is caught by its rule"

bench-tape: ## LTFS index of a million files, reading in tape order, opening 22,000 blocks, using a mount: CPU seconds, bytes, records
	@$(env) && go test -run '^$$' -bench Index -benchtime 3x -v ./ltfs -files 1000000 && \
	  go test -count=1 -run TestExtractReadsInTapeOrder -v ./internal/system/tape -smallfiles 20000 && \
	  go test -run '^$$' -bench 'Open$$' -benchtime 10x ./internal/system/tape -blocks 22000 && \
	  go test -count=1 -run TestNobodyWaitsForAnIndex -v ./internal/system/tape && \
	  CGO_ENABLED=0 go build -trimpath -o .work/bin/cairn ./cmd/cairn && go run ./test/bench/tape -cairn .work/bin/cairn -dir .work/bench-tape && echo "bench-tape: done"

tape-tears: ## 6,000 torn and 6,000 damaged tapes: every committed generation is listed and read, recovery brings order
	@$(env) && go test -count=1 -timeout 60m -run "TornTapes|ForeignDamage" -v ./internal/system/tape -tears 6000 -damages 6000 && echo "tape-tears: no violation"

tape-errors: ## a SCSI drive goes wrong at every command, in nine ways: what was committed stays, what succeeded is on tape
	@$(env) && CAIRN_SCALE=full go test -count=1 -timeout 30m -run DriveErrors -v ./internal/system/tape && echo "tape-errors: no violation"

tape-syncs: ## 10,000 fsyncs and 20,000 closes on a tape of a million files: within the budget, nothing lied at a cut (8 GB of memory)
	@$(env) && GOMEMLIMIT=8GiB go test -count=1 -timeout 120m -run 'ManySyncs.*/fsync' -v ./internal/system/tape -volumefiles 1000000 -volumesyncs 10000 && \
	  GOMEMLIMIT=8GiB go test -count=1 -timeout 120m -run 'ManySyncs.*/close' -v ./internal/system/tape -volumefiles 1000000 -volumesyncs 20000 && echo "tape-syncs: within the budget"

tape-cuts: ## 5,000 power cuts of a mounted tape: what fsync, close, sync and unmount promised is there
	@$(env) && go test -count=1 -timeout 60m -run PowerCuts ./internal/system/tape -cuts 5000 && echo "tape-cuts: no violation"

posix: ## a mounted tape as a POSIX file system: cases, five minutes of random operations, /usr/share there and back (root, /dev/fuse; fsx=1h)
	@$(env) && go test -count=1 -timeout 120m ./test/posix -fsx $(or $(fsx),5m) -tree /usr/share && echo "posix: as a disk would"

bench-incremental: ## what a 1 % change costs, beside restic, borg, rsync and qemu-img (as root, for cold caches)
	@need_kib=12000000; $(env) && CGO_ENABLED=0 go build -trimpath -o .work/bin/cairn ./cmd/cairn && \
	  go run ./test/bench/incremental -cairn .work/bin/cairn -dir .work/bench-incremental

bench-block: ## serving a volume over NBD, beside nbdkit and qemu-nbd, in server CPU per operation
	@need_kib=8000000; $(env) && CGO_ENABLED=0 go build -trimpath -o .work/bin/cairn ./cmd/cairn && \
	  go run ./test/bench/block -cairn .work/bin/cairn -dir .work/bench-block

KERNEL = backports
vmprepare = need_kib=3000000; $(env) && CGO_ENABLED=0 go build -trimpath -o .work/bin/vmprepare ./test/vm/prepare && nice -n 5 .work/bin/vmprepare -kernel $(KERNEL)
zfs-kills: ## each process of a ZFS step dies, before and after its work; a catch-up of 1,000 snapshots (on the fake zfs)
	@CAIRN_SCALE=full nice -n 5 go test -count=1 -timeout 20m -v -run 'TestAnyProcessDies|TestCases/ProcessesOf' ./internal/system/zfs

vm-prepare: ## build the virtual machine from Debian packages, or again when newer ones are there (root; KERNEL=backports|stable)
	@$(vmprepare)

test-vm: ## tests inside the virtual machine: OpenZFS, kernel NBD, ublk, device-mapper, tape, power cuts (KERNEL=backports|stable, RUN=PATTERN of the guest's tests for a subset)
	@$(vmprepare) -keep && CAIRN_VM=1 CAIRN_VM_KERNEL=$(KERNEL) CAIRN_VM_TESTS='$(RUN)' nice -n 5 go test -count=1 -timeout 100m -v $(if $(RUN),-run '^TestChosen$$') ./test/vm && echo "test-vm: good on $(KERNEL)"

clean: ## remove everything that was made
	@chmod -R u+w .work 2>/dev/null; rm -rf .work cairn
