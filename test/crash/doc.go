// Package crash holds the crash harness of the volume engine: seeded workloads run
// on a recording disk (internal/testkit/fakedisk) beside a model that is too
// simple to be wrong, the power is cut after every entry of the disk's log, and
// what the engine makes of the rest is compared with what the model allows.
//
// A cut is right when the volume opens; every version that was committed is there,
// and every one that was given up is not; every snapshot reads bit for bit as it
// did when it was captured; every flushed write is in the head, and each sector of
// the others is old or new; change sets hold every block that differs, and beyond
// what was written only what intent marks of the open interval cover; and all this
// is still so after more writes and another cut.
//
// Operations can be nested: one runs to its end while the other stands still
// before a chosen call to the disk. So captures, writes and reads interleave
// the same way each time.
//
// A failure prints the operations, shortened as far as the failure allows, and the
// command that replays it:
//
//	go test ./test/crash -run TestCuts -seed N -cut C -subset S -v
//
// Every prefix of a workload's log is tried with all of what was not durable and
// with nothing of it, and random cuts with random parts of it. The flags -seeds and
// -from choose more seeds, -samples how many random outcomes are tried in all;
// CAIRN_SCALE=full is 300 seeds and 10,000 samples.
//
// Beside the power also the process may die alone: then every acknowledged write is
// there, and what was not durable is not durable still when the power fails next.
//
// Beside the cuts of one volume stand two volumes that are captured together
// (TestGroupCuts), receives that are cut and resumed (TestReceiveCuts), senders that
// lose power (TestSenderLosesPower) and disks of which any one call fails
// (TestFailingCalls). The engine's rules are broken one by one (TestPlantedFaults, a
// table of rules), and each place in its source that makes something durable is left
// out once (TestEachBarrierIsNeeded, which finds the places by itself): every one
// has to be noticed. The default run takes a part of each.
package crash
