package job

import "time"

// SetFileBytes makes logs rotate earlier.
func (s *Store) SetFileBytes(n int64) { s.maxFile = n }

// SetWallClock replaces the wall clock of a job that does not run yet.
func (j *Job) SetWallClock(now func() time.Time) { j.clock.now = now }
