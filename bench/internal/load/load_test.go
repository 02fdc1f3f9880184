package load

import (
	"errors"
	"testing"
	"time"
)

func TestARequestThatIsPartlyWithinCountsInPart(t *testing.T) {
	var r Result
	r.measure([]request{
		{0, 5 * time.Second},                // all before
		{8 * time.Second, 12 * time.Second}, // half
		{12 * time.Second, 18 * time.Second},
		{18 * time.Second, 26 * time.Second}, // a quarter
	}, 10*time.Second, 20*time.Second)
	if r.PerSecond != 0.175 || r.P50 != 6*time.Second || r.P99 != 8*time.Second {
		t.Errorf("%+v", r)
	}
}

func TestOnceMakesEachRequestOnce(t *testing.T) {
	made := make(chan int, 100)
	list := make([]func() error, 50)
	for i := range list {
		list[i] = func() error {
			made <- i
			if i < 10 {
				return errors.New("refused")
			}
			return nil
		}
	}
	if r := Once(7, list); r.Failed != 10 || r.PerSecond == 0 || len(made) != 50 {
		t.Errorf("%+v, %d were made", r, len(made))
	}
	seen := map[int]bool{}
	for range list {
		seen[<-made] = true
	}
	if len(seen) != 50 {
		t.Errorf("%d different ones", len(seen))
	}
}

func TestSidesAreMeasuredInTurn(t *testing.T) {
	var order string
	side := func(name string, rates ...float64) func() (Result, error) {
		return func() (Result, error) {
			r := Result{PerSecond: rates[0], Failed: 1}
			order, rates = order+name, rates[1:]
			return r, nil
		}
	}
	medians, err := InTurn(3, side("a", 1, 9, 2), side("b", 5, 4, 6))
	if err != nil || order != "ababab" || medians[0].PerSecond != 2 || medians[1].PerSecond != 5 || medians[0].Failed != 3 {
		t.Errorf("%+v, %v, in the order %s", medians, err, order)
	}
}
