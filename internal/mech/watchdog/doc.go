// Package watchdog turns missing progress into a cancelled, reported step.
//
// A Progress holds counters that are levels, not sums: only a level higher than
// any seen before is progress, so that a loop of failing retries, each getting as
// far as the last, is a stall. Entering a phase is no progress either. Limits
// depend on the phase; time spent in a phase that waits for the outside world
// (blocked) is not held against what follows.
//
// When nothing moved for the phase's limit, the ladder is climbed: the context is
// cancelled, then the work's own escalations run (TERM, KILL of a process group,
// closing of pipes), and if it still does not return it is abandoned: Run returns
// to its caller, which quarantines the dataset, and the goroutine is left behind.
package watchdog
