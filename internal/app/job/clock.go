package job

import "time"

// clock is what a job knows of the time. Schedules follow the wall clock, which
// people and daemons set; all its readings here are without the monotonic one, so
// that comparisons agree with each other after a step and after a suspend.
type clock struct {
	now func() time.Time
	ran func() time.Duration // that passed for this process, whatever the wall clock did
}

func systemClock() clock {
	began := time.Now()
	return clock{now: func() time.Time { return time.Now().Round(0) }, ran: func() time.Duration { return time.Since(began) }}
}

// heedStep notices that the wall clock was set back: what was to happen at a time
// that is far away now happens as much later as it should have, and the schedule
// is asked anew.
func (j *Job) heedStep() {
	now, ran := j.clock.now(), j.clock.ran()
	step := now.Sub(j.looked) - (ran - j.lookedRan)
	j.looked, j.lookedRan = now, ran
	if step > -clockCheck {
		return
	}
	j.log.Info("the clock was set back", "by", -step)
	if !j.retryAt.IsZero() {
		j.retryAt = j.retryAt.Add(step)
	}
	if !j.earliest.IsZero() {
		j.earliest = j.earliest.Add(step)
	}
	j.after, j.askAt = now, now
}
