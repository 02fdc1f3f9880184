package password

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ccojocar/zxcvbn-go/data"
	"github.com/trustelem/zxcvbn/frequency"
	"golang.org/x/text/unicode/norm"
)

// The lists of common passwords that two ports of zxcvbn rank by. They differ in age, and
// neither has all of the other.
const (
	commonAsset     = "data/Passwords.json" // of ccojocar
	commonFrequency = "passwords"           // of trustelem
)

// minContextLength is the shortest word that counts as context: shorter ones are part of
// many others. In code points.
const minContextLength = 3

// Bounds of a list of one's own, in bytes.
const (
	maxListSize = 64 << 20
	maxListLine = 64 << 10
)

// blocklist refuses passwords that many people use, or that tell of their owner. Of the former
// it keeps 8 bytes each: so ten million take 80 MB, and refuse one of two trillion others.
type blocklist struct {
	seed   maphash.Seed // nobody outside knows it, so nobody can look for others that are refused
	common []uint64     // digests of what fold writes, sorted
	names  []string     // of the service
}

func newBlocklist(names []string) (blocklist, error) {
	asset, err := data.Asset(commonAsset)
	if err != nil {
		return blocklist{}, fmt.Errorf("common passwords: %w", err)
	}
	var file struct{ List []string }
	if err := json.Unmarshal(asset, &file); err != nil {
		return blocklist{}, fmt.Errorf("common passwords: %w", err)
	}
	b := blocklist{seed: maphash.MakeSeed(), names: names}
	for _, list := range [][]string{file.List, frequency.FrequencyLists[commonFrequency]} {
		for _, word := range list {
			b.add(word)
		}
	}
	b.sort()
	return b, nil
}

// Block refuses more passwords as too common: those of a list, one a line, in UTF-8, of at most
// 64 MiB. Letter case does not matter, spaces do; empty lines are passed over. It returns
// a *ListError, which names the line at fault, or the error of what it reads from; nothing more
// is refused then. Call it before the Hasher is used.
func (h *Hasher) Block(list io.Reader) error {
	more := h.blocked
	more.common = slices.Clone(more.common)
	limited := &io.LimitedReader{R: list, N: maxListSize + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxListLine)
	number := 0
	for lines.Scan() && limited.N > 0 {
		number++
		line := lines.Text()
		if number == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if !utf8.ValidString(line) {
			return &ListError{number, "is not UTF-8"}
		}
		more.add(line)
	}
	switch {
	case limited.N == 0:
		return &ListError{0, "is larger than 64 MiB"}
	case errors.Is(lines.Err(), bufio.ErrTooLong):
		return &ListError{number + 1, "is longer than 64 KiB"}
	case lines.Err() != nil:
		return lines.Err()
	}
	more.sort()
	h.blocked = more
	return nil
}

// ListError says what is wrong with a list of passwords. It holds nothing of the list.
type ListError struct {
	Line  int // from 1; 0 is the whole list
	Fault string
}

func (e *ListError) Error() string {
	if e.Line == 0 {
		return "the list " + e.Fault
	}
	return fmt.Sprintf("line %d %s", e.Line, e.Fault)
}

// fold brings a word into the form that is compared here: letter case does not help.
func fold(word string) string { return strings.ToLower(norm.NFC.String(word)) }

// add blocks a word; sort must follow. Words that are too short to be passwords anyway take no
// place.
func (b *blocklist) add(word string) {
	if len(word) < MinLength {
		return
	}
	if folded := fold(word); utf8.RuneCountInString(folded) >= MinLength {
		b.common = append(b.common, maphash.String(b.seed, folded))
	}
}

func (b *blocklist) sort() {
	slices.Sort(b.common)
	b.common = slices.Clone(slices.Compact(b.common)) // without the room that add left
}

// isCommon tells whether the password is on the list.
func (b blocklist) isCommon(password string) bool {
	_, found := slices.BinarySearch(b.common, maphash.String(b.seed, fold(password)))
	return found
}

// isContext tells whether a password is made of the owner's words and the service's names:
// without them it would be shorter than a password may be.
func (b blocklist) isContext(password string, own []string, minLength int) bool {
	rest := fold(password)
	for _, words := range [][]string{own, b.names} {
		for _, word := range words {
			if utf8.RuneCountInString(word) >= minContextLength {
				rest = strings.ReplaceAll(rest, fold(word), "")
			}
		}
	}
	return utf8.RuneCountInString(rest) < minLength
}
