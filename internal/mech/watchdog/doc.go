// Package watchdog turns missing progress into a cancelled, reported step.
//
// A Progress holds counters that are levels, not sums: only a level higher than
// any seen before is progress, so that a loop of failing retries, each getting as
// far as the last, is a stall. Entering a phase is no progress either. Limits
// depend on the phase. Standstill is summed per phase, over all visits since
// something last moved: going back and forth between phases hides nothing, and
// time spent in a phase that waits for the outside world (Blocked) is not held
// against what follows.
//
// When nothing moved for the phase's limit, the ladder is climbed: the context is
// cancelled, then the work's own escalations run (TERM, KILL of a process group,
// closing of pipes), and if it still does not return it is abandoned: Run returns
// to its caller and the goroutine is left behind. The ladder is climbed as well
// when the caller's context ends and the work does not. A Quarantine keeps what
// abandoned work may still touch locked until that work returns.
//
// What can go wrong: work that reports levels which do not say anything about its
// end (a clock, a count of attempts) is never stuck. Levels are positions: bytes
// of the stream that are done, versions that are done, CPU time of one child.
package watchdog
