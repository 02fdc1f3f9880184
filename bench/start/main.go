// Command start measures how long authd takes from its start until it serves, and what memory it
// needs, idle and under a steady mix of requests:
//
//	go run ./bench/start
//	go run ./bench/start -load 1h -svg docs/performance/memory.svg
//
// It starts the program on an empty directory, on one that is there already, and on a Postgres of
// its own. Ready is when GET /readyz answers 200, asked as soon as the log says where; the limit
// is the start of a process that does nothing but tell its version. Memory is the resident set;
// of it, what is mapped from files, mostly the program itself, can be shared and given up.
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bench/internal/plot"
	"github.com/zyotra/auth/internal/testpg"
)

var (
	starts = flag.Int("starts", 10, "starts of each kind")
	length = flag.Duration("load", time.Minute, "how long requests come; 0 leaves that out")
	rate   = flag.Int("rate", 100, "requests a second, a twentieth of them logins, registrations and logouts")
	every  = flag.Duration("every", 5*time.Second, "how often memory is looked at")
	svg    = flag.String("svg", "", "file for a plot of the memory")
)

// The aims.
const (
	aimStart = 150 * time.Millisecond // embedded
	aimIdle  = 60                     // MiB
)

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	binary, dir, clean, err := daemon.Build()
	if err != nil {
		return err
	}
	defer clean()
	if err := bare(binary); err != nil {
		return err
	}
	err = series("embedded, an empty directory", aimStart, func(i int) (*daemon.Daemon, error) {
		return daemon.Start(binary, filepath.Join(dir, fmt.Sprint("empty", i)))
	})
	if err != nil {
		return err
	}
	err = series("embedded, one that is there", aimStart, func(int) (*daemon.Daemon, error) {
		return daemon.Start(binary, filepath.Join(dir, "empty0"))
	})
	if err != nil {
		return err
	}
	if err := onPostgres(ctx, binary, dir); err != nil {
		return err
	}
	return memory(ctx, binary, filepath.Join(dir, "memory"))
}

// bare starts the program for nothing.
func bare(binary string) error {
	var took []time.Duration
	for range *starts {
		began := time.Now()
		if err := exec.Command(binary, "version").Run(); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	fmt.Printf("%-30s p50 %7s  max %7s\n", "authd version", at(took, 50), at(took, 100))
	return nil
}

func onPostgres(ctx context.Context, binary, dir string) error {
	postgres, err := testpg.Start(ctx, testpg.Config{Durable: true})
	if err != nil {
		return err
	}
	defer postgres.Close()
	var key [32]byte
	rand.Read(key[:])
	arguments := []string{"--migrate", "--database-url=" + postgres.URL, "--secret-key=" + base64.StdEncoding.EncodeToString(key[:])}
	return series("Postgres, embedded bus", 0, func(int) (*daemon.Daemon, error) {
		return daemon.Start(binary, filepath.Join(dir, "postgres"), arguments...)
	})
}

// series starts, asks for readiness and stops, again and again. An aim of 0 is none.
func series(name string, aim time.Duration, start func(i int) (*daemon.Daemon, error)) error {
	var said, ready []time.Duration
	for i := range *starts {
		d, err := start(i)
		if err != nil {
			return err
		}
		answered, err := readyz(d)
		if err := errors.Join(err, d.Stop()); err != nil {
			return err
		}
		said, ready = append(said, d.Took), append(ready, d.Took+answered)
	}
	slices.Sort(said)
	slices.Sort(ready)
	fmt.Printf("%-30s p50 %7s  max %7s  \"ready\" in the log p50 %7s", name, at(ready, 50), at(ready, 100), at(said, 50))
	if aim > 0 {
		fmt.Printf("  (aim %s)", aim)
	}
	fmt.Println()
	return nil
}

// readyz asks until the service is ready, and tells how long that took.
func readyz(d *daemon.Daemon) (time.Duration, error) {
	began := time.Now()
	for time.Since(began) < 10*time.Second {
		resp, err := http.Get(d.HTTP + "/readyz")
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return time.Since(began), nil
		}
		time.Sleep(time.Millisecond)
	}
	return 0, errors.New("not ready within ten seconds")
}

// at is a percentile of sorted durations.
func at(took []time.Duration, percent int) time.Duration {
	return took[min(len(took)-1, len(took)*percent/100)].Round(100 * time.Microsecond)
}

// memory looks at the memory of a service that has nothing to do, and then at one that has.
func memory(ctx context.Context, binary, dir string) (err error) {
	os.Unsetenv("GOGC")
	d, err := daemon.Start(binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	time.Sleep(5 * time.Second)
	all, own := d.Resident(), d.ResidentOwn()
	fmt.Printf("\nidle: %s MiB resident, %s of them not mapped from files (aim %d)\n", mebi(all), mebi(own), aimIdle)
	if *length == 0 {
		return nil
	}
	samples, err := under(ctx, d)
	if err != nil {
		return err
	}
	samples.print()
	if *svg == "" {
		return nil
	}
	return samples.chart().Write(*svg)
}

func mebi(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }

// samples are looks at the memory.
type samples struct {
	minutes  []float64
	resident []float64 // MiB
	requests int
	failed   int
}

// print tells where the memory went: the slope is that of the second half, since the first fills
// caches and pools.
func (s samples) print() {
	half := len(s.minutes) / 2
	fmt.Printf("under load: %.1f MiB at first, %.1f at most, %.1f in the end; slope of the second half %+.2f MiB an hour; %d requests, %d failed\n",
		s.resident[0], slices.Max(s.resident), s.resident[len(s.resident)-1], slope(s.minutes[half:], s.resident[half:])*60, s.requests, s.failed)
}

// slope is that of the straight line with the least squares.
func slope(x, y []float64) float64 {
	var sumX, sumY, sumXX, sumXY float64
	for i := range x {
		sumX, sumY, sumXX, sumXY = sumX+x[i], sumY+y[i], sumXX+x[i]*x[i], sumXY+x[i]*y[i]
	}
	n := float64(len(x))
	if spread := n*sumXX - sumX*sumX; spread != 0 {
		return (n*sumXY - sumX*sumY) / spread
	}
	return 0
}

func (s samples) chart() plot.Chart {
	return plot.Chart{
		Title: fmt.Sprintf("Resident memory at %d requests a second", *rate), X: "minutes", Y: "MiB",
		Lines: []plot.Line{{Name: "resident", X: s.minutes, Y: s.resident}},
	}
}
