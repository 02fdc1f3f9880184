package password

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// A comparison does the work of the current cost, for any stored string and any password.
func TestEveryComparisonCostsWhatTheCurrentCostDoes(t *testing.T) {
	t.Parallel()
	const current = bcrypt.MinCost + 3
	older, err := New([]Pepper{{ID: "one", Key: []byte("pepper")}}, bcrypt.MinCost, MinLength)
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(older.Peppers, current, MinLength)
	if err != nil {
		t.Fatal(err)
	}
	const right = "correct horse battery"
	stored := map[string]string{"no password": ""}
	for cost := bcrypt.MinCost; cost <= current; cost++ {
		older.Cost = cost
		ours, err := older.Hash(t.Context(), right)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := bcrypt.GenerateFromPassword([]byte(right), cost)
		if err != nil {
			t.Fatal(err)
		}
		stored["ours of "+ours[:30]], stored["plain of "+string(plain[:7])] = ours, string(plain)
	}
	work := 0
	h.worked = func(cost int) { work += 1 << cost }
	for name, text := range stored {
		for _, tried := range []string{right, "wrong horse battery", "", strings.Repeat("x", MaxLength+1), strings.Repeat("x", maxPlainBytes+1), "\x00"} {
			work = 0
			found, err := h.Compare(t.Context(), text, tried)
			if err != nil || found.Match != (tried == right && text != "") {
				t.Errorf("%s, %.30q: %+v, %v", name, tried, found, err)
			}
			if work != 1<<current {
				t.Errorf("%s, %.30q: the work of %d, want %d", name, tried, work, 1<<current)
			}
		}
	}
}

// The work that follows a comparison of another scheme makes up for the rest, up to one comparison
// of the lowest cost.
func TestTheRestOfAnotherSchemeIsMadeUpFor(t *testing.T) {
	t.Parallel()
	const least = time.Millisecond // a comparison of the lowest cost
	for cost := bcrypt.MinCost; cost <= MaxCost; cost++ {
		h := &Hasher{Cost: cost}
		whole := least << (cost - bcrypt.MinCost)
		probe := least << (h.probe() - bcrypt.MinCost)
		for took := time.Duration(0); took < 2*whole; took += whole/97 + 1 {
			spent := took + probe
			for _, c := range h.rest(took, probe) {
				spent += least << (c - bcrypt.MinCost)
			}
			if over := took+probe > whole; !over && (spent > whole || spent <= whole-least) || over && spent != took+probe {
				t.Errorf("cost %d, took %s: %s spent, want %s", cost, took, spent, whole)
			}
		}
		if h.rest(whole, 0) != nil { // a clock that stands still
			t.Error("work without a measure")
		}
	}
}

// A string of another scheme is followed by work until the current cost is reached.
func TestCheapStringsOfOtherSchemesAreMadeUpFor(t *testing.T) {
	t.Parallel()
	h, err := New([]Pepper{{ID: "one", Key: []byte("pepper")}}, 9, MinLength)
	if err != nil {
		t.Fatal(err)
	}
	work := 0
	h.worked = func(cost int) { work += 1 << cost }
	const cheap = "$pbkdf2-sha256$i=1000$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA" // a thousandth of a second
	for tries := 0; work <= 1<<(h.Cost-1); tries++ {                         // a busy machine may make it look dear
		work = 0
		if found, err := h.Compare(t.Context(), cheap, "wrong horse battery"); err != nil || found.Match {
			t.Fatalf("%+v, %v", found, err)
		}
		if work > 1<<h.Cost || tries == 100 {
			t.Fatalf("the work of %d, want nearly %d", work, 1<<h.Cost)
		}
	}
}
