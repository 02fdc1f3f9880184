package loglimit

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLinesOfAKindAreLimitedAndCounted(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	var out bytes.Buffer
	limiter := &Limiter{now: func() time.Time { return now }}
	log := slog.New(&handler{slog.NewTextHandler(&out, nil), limiter}).With("part", "bus")
	for range Burst + 7 {
		log.Warn("refused")
	}
	log.Warn("another kind")
	if n := strings.Count(out.String(), "msg=refused part=bus"); n != Burst {
		t.Errorf("%d lines of %d", n, Burst)
	}
	if !strings.Contains(out.String(), "another kind") {
		t.Error("one kind limits another")
	}
	out.Reset()
	now = now.Add(Interval)
	log.Warn("refused")
	log.Warn("refused")
	if n := strings.Count(out.String(), "omitted=7"); n != 1 || strings.Count(out.String(), "refused") != 2 {
		t.Errorf("after the interval: %s", &out)
	}
}

func TestKindsWithoutEndAreOneKind(t *testing.T) {
	t.Parallel()
	var limiter Limiter
	written := 0
	for i := range 100 * maxKinds {
		if _, ok := limiter.Pass(fmt.Sprint("kind ", i)); ok {
			written++
		}
	}
	if written != maxKinds+Burst || len(limiter.windows) != maxKinds+1 {
		t.Errorf("%d lines of %d kinds", written, len(limiter.windows))
	}
}
