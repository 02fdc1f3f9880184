// Package load makes load in closed loops and says how fast it was answered.
package load

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// Result is how fast requests were answered, without those that failed.
type Result struct {
	PerSecond float64
	P50, P99  time.Duration
	Failed    int
}

// request is when one was sent and answered, since the beginning.
type request struct{ sent, answered time.Duration }

// Closed has callers that each ask again as soon as they are answered, for a fifth of the
// length to warm up and then for the length. A request that lies only partly within it counts
// in part: where each takes long, whole ones would make the rate a matter of luck.
func Closed(callers []func() error, length time.Duration) Result {
	warm := length / 5
	end := warm + length
	began := time.Now()
	return collect(len(callers), warm, func(i int, record func(request, error)) {
		for {
			sent := time.Since(began)
			if sent >= end {
				return
			}
			err := callers[i]()
			record(request{sent, time.Since(began)}, err)
		}
	}, func() time.Duration { return end })
}

// Once has n callers share a list of requests, each of which is made once.
func Once(n int, list []func() error) Result {
	var next atomic.Int64
	began := time.Now()
	return collect(n, 0, func(_ int, record func(request, error)) {
		for {
			k := int(next.Add(1)) - 1
			if k >= len(list) {
				return
			}
			sent := time.Since(began)
			err := list[k]()
			record(request{sent, time.Since(began)}, err)
		}
	}, func() time.Duration { return time.Since(began) })
}

// collect runs n loops and counts what lies between from and until, which is asked for when
// they have ended.
func collect(n int, from time.Duration, loop func(i int, record func(request, error)), until func() time.Duration) Result {
	requests, failed := make([][]request, n), make([]int, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			loop(i, func(r request, err error) {
				if err != nil {
					failed[i]++
					return
				}
				requests[i] = append(requests[i], r)
			})
		})
	}
	group.Wait()
	var result Result
	for _, f := range failed {
		result.Failed += f
	}
	result.measure(slices.Concat(requests...), from, until())
	return result
}

func (r *Result) measure(requests []request, from, until time.Duration) {
	var count float64
	took := make([]time.Duration, 0, len(requests))
	for _, q := range requests {
		within := min(q.answered, until) - max(q.sent, from)
		if within <= 0 {
			continue
		}
		count += float64(within) / float64(q.answered-q.sent)
		took = append(took, q.answered-q.sent)
	}
	r.PerSecond = count / (until - from).Seconds()
	r.Took(took)
}

// Took sets the percentiles to those of a list, which it sorts.
func (r *Result) Took(list []time.Duration) {
	if len(list) == 0 {
		return
	}
	slices.Sort(list)
	r.P50, r.P99 = list[len(list)/2], list[len(list)*99/100]
}

// InTurn measures every side once a round, one after the other, so that what slows the machine
// down for a while slows them all, and returns the medians of each.
func InTurn(rounds int, sides ...func() (Result, error)) ([]Result, error) {
	all := make([][]Result, len(sides))
	for range rounds {
		for i, measure := range sides {
			r, err := measure()
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], r)
		}
	}
	medians := make([]Result, len(sides))
	for i, results := range all {
		medians[i] = median(results)
	}
	return medians, nil
}

func median(results []Result) (m Result) {
	middle := len(results) / 2
	var rates []float64
	var p50, p99 []time.Duration
	for _, r := range results {
		rates, p50, p99 = append(rates, r.PerSecond), append(p50, r.P50), append(p99, r.P99)
		m.Failed += r.Failed
	}
	slices.Sort(rates)
	slices.Sort(p50)
	slices.Sort(p99)
	m.PerSecond, m.P50, m.P99 = rates[middle], p50[middle], p99[middle]
	return m
}

// Table writes rows that compare ours with the limit.
type Table struct{ w *tabwriter.Writer }

// NewTable begins one with the names of what is compared.
func NewTable(w io.Writer, what, ours, limit string) *Table {
	t := &Table{tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)}
	fmt.Fprintf(t.w, "%s\t%s/s\t%s/s\tratio\tp50\tof the limit\tp99\tof the limit\ttimes\tfailed\t\n", what, ours, limit)
	return t
}

// Row adds one. The ratio is that of throughput, the times that of the 99th percentiles.
func (t *Table) Row(name string, ours, limit Result) {
	fmt.Fprintf(t.w, "%s\t%s\t%s\t%.2f\t%s\t%s\t%s\t%s\t%.2f\t%d\t\n", name,
		rate(ours), rate(limit), ours.PerSecond/limit.PerSecond,
		round(ours.P50), round(limit.P50), round(ours.P99), round(limit.P99),
		float64(ours.P99)/float64(limit.P99), ours.Failed+limit.Failed)
}

// End writes the table.
func (t *Table) End() error { return t.w.Flush() }

// rate shows as many digits as mean something.
func rate(r Result) string {
	if r.PerSecond < 1000 {
		return fmt.Sprintf("%.1f", r.PerSecond)
	}
	return fmt.Sprintf("%.0f", r.PerSecond)
}

func round(d time.Duration) time.Duration {
	if d > 10*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}
