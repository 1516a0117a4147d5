package cli

import (
	"strings"
	"testing"
	"time"

	"cairn/internal/front/ltfsmount"
	"cairn/internal/system/tape"
)

func TestMetricsText(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	text := metricsText(ltfsmount.Report{Drive: "/dev/sg1", Name: `a "b"`, State: "late", Failures: 3, AtRisk: tape.Risk{Bytes: 7, Since: at.Add(-time.Minute)}}, at)
	for _, want := range []string{
		"cairn_tape_state{drive=\"/dev/sg1\",volume=\"a \\\"b\\\"\",barcode=\"\",state=\"late\"} 1\n", "state=\"ok\"} 0\n",
		"cairn_tape_sync_failures{drive=\"/dev/sg1\",volume=\"a \\\"b\\\"\",barcode=\"\"} 3\n", "} 7\n", "cairn_tape_risk_seconds{drive=\"/dev/sg1\",volume=\"a \\\"b\\\"\",barcode=\"\"} 60\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
