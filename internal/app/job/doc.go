// Package job is what a configured activity is at run time, apart from any wiring:
// when it runs, which verbs it runs in which order, what becomes of a request that
// comes while it is busy, and what is remembered of its runs.
//
// # Runs
//
// A [Job] has verbs (capture, replicate, prune, …) that come in as functions. One
// run at a time carries them out in order. A failing verb ends its run's success,
// not its run: verbs marked Always still follow, so that pruning is done when
// replication fails or is stuck. A run begins by schedule, by request ([Job.Wake])
// or to retry what failed. Requests and schedule times that come while a run is
// under way are merged into the one run that follows it; none is dropped.
//
// # History
//
// A [Store] keeps one bounded, append-only log of runs and steps per job, in the
// format of docs/formats/history.md. When Begin or End return, their record
// survives a kill and a power cut; steps survive a kill, and a power cut but for
// those of the second after the last sync. A run whose end is missing when the log is opened was interrupted, and is
// recorded so. Torn and damaged records are left out of listings; they never hide
// others.
//
// # What can go wrong
//
// A log that cannot be written does not stop protection: the job logs it once and
// runs on. A verb that ignores its context delays the end of [Job.Run] by at most
// the grace time, and is then left behind.
package job
