package password

import (
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Every comparison does the work of the current cost, so that the time of a failed login
// depends neither on whether an address has an account nor on the age of its password. A comparison with a cheaper string
// is followed by comparisons with dummies that make up for the rest. A string that costs more than the
// current cost cannot be compared for less.

// compareBcrypt compares every input with a string of a cost, so that the time does not depend on
// which one matches. Each cost is twice the work of the one below: the costs from the string's to
// the one below the current add up to the difference.
func (h *Hasher) compareBcrypt(hash string, inputs [][]byte, cost int) (match bool) {
	for _, input := range inputs {
		match = h.bcrypt(hash, input, cost) || match
		for c := cost; c < h.Cost; c++ {
			h.spend(c)
		}
	}
	return match
}

// mismatch compares with a dummy of the current cost, once for each form of the password, and
// returns false.
func (h *Hasher) mismatch(forms int) bool {
	for range forms {
		h.spend(h.Cost)
	}
	return false
}

// spend does the work of a comparison of a cost.
func (h *Hasher) spend(cost int) { h.bcrypt(h.dummies[cost], h.Peppers[0].digest(""), cost) }

func (h *Hasher) bcrypt(hash string, input []byte, cost int) (match bool) {
	if h.worked != nil {
		h.worked(cost)
	}
	return bcrypt.CompareHashAndPassword([]byte(hash), input) == nil
}

// compareDerived compares with a string of another scheme. How much bcrypt its work is worth depends on
// the machine and its load, so both are measured: the scheme itself, and bcrypt by a part of
// the work that is due.
func (h *Hasher) compareDerived(d derived, password string, forms int) (bool, error) {
	began := time.Now()
	match, err := d.matches(password)
	took := time.Since(began)

	probe := h.probe()
	began = time.Now()
	h.spend(probe)
	for _, cost := range h.rest(took, time.Since(began)) {
		h.spend(cost)
	}
	h.mismatch(forms - 1) // the scheme compares one form
	return match, err
}

// probe is the cost that measures how fast bcrypt is: an eighth of the current work.
func (h *Hasher) probe() int { return max(bcrypt.MinCost, h.Cost-3) }

// rest returns the costs, of which each is twice the next one's work, that make up for the rest of the current cost
// after a comparison took as long and the probe did. There are none if the comparison was dearer.
func (h *Hasher) rest(took, probe time.Duration) (costs []int) {
	work := func(cost int) time.Duration {
		return (probe << (cost - bcrypt.MinCost)) >> (h.probe() - bcrypt.MinCost)
	}
	left := work(h.Cost) - probe - took
	for cost := h.Cost - 1; cost >= bcrypt.MinCost; cost-- {
		if w := work(cost); w > 0 && w <= left {
			costs = append(costs, cost)
			left -= w
		}
	}
	return costs
}
