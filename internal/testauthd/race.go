//go:build race

package testauthd

// raceDetector reports whether this test is built with the race detector.
const raceDetector = true
