package watchdog_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
)

func TestValue(t *testing.T) {
	v, err, abandoned := watchdog.Value(t.Context(), &watchdog.Progress{}, watchdog.Options{}, func(context.Context) (int, error) { return 7, cairn.KindSpace })
	if v != 7 || !errors.Is(err, cairn.KindSpace) || abandoned {
		t.Errorf("%v, %v, %v", v, err, abandoned)
	}
}

func TestValueOfAbandonedWorkIsNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &watchdog.Quarantine{}
		o := watchdog.Options{Limit: time.Minute, Quarantine: q, Lock: "d"}
		free := make(chan struct{})
		hang := func(context.Context) (int, error) { <-free; return 7, nil }
		if v, err, abandoned := watchdog.Value(t.Context(), &watchdog.Progress{}, o, hang); v != 0 || !errors.Is(err, cairn.KindStuck) || !abandoned {
			t.Errorf("hung: %v, %v, %v", v, err, abandoned)
		}
		if v, err, abandoned := watchdog.Value(t.Context(), &watchdog.Progress{}, o, hang); v != 0 || !errors.Is(err, cairn.KindBusy) || abandoned {
			t.Errorf("locked: %v, %v, %v", v, err, abandoned)
		}
		close(free)
	})
}
