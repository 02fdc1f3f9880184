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
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/ccojocar/zxcvbn-go/data"
	"github.com/trustelem/zxcvbn/frequency"
)

// listAssets are the lists of ccojocar's port of zxcvbn that are used besides all of trustelem's.
// Both take a password off their list of passwords if it is a word or a name, which they list
// apart; the commonest passwords are whole only with those lists.
var listAssets = []string{"data/Passwords.json", "data/English.json", "data/Surnames.json", "data/FemaleNames.json", "data/MaleNames.json"}

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
	common func() []uint64 // returns digests of what fold writes, sorted
	names  []string        // of the service
}

// seed makes the digests of this process differ from those of any other, so that nobody outside
// can look for passwords that are refused by coincidence.
var seed = maphash.MakeSeed()

// listed returns the digests of the lists that are in the binary. It reads them once in the life of
// the process.
var listed = sync.OnceValue(readLists)

// newBlocklist reads the lists in a goroutine of its own: that takes 40 ms of a core, which the
// start of the process need not wait for. The first password does.
func newBlocklist(names []string) blocklist {
	go listed()
	return blocklist{common: listed, names: names}
}

func readLists() []uint64 {
	var digests []uint64
	for _, list := range frequency.FrequencyLists {
		digests = add(digests, list...)
	}
	for _, name := range listAssets {
		var file struct{ List []string }
		if err := json.Unmarshal(data.MustAsset(name), &file); err != nil {
			panic(err) // a list in the binary
		}
		digests = add(digests, file.List...)
	}
	return sorted(digests)
}

// Block refuses more passwords as too common: those of a list, one a line, in UTF-8, of at most
// 64 MiB. Letter case does not matter, spaces do; empty lines are passed over. It returns
// a *ListError, which names the line at fault, or the error of what it reads from; nothing more
// is refused then. Call it before the Hasher is used.
func (h *Hasher) Block(list io.Reader) error {
	digests := slices.Clone(h.blocked.common())
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
		digests = add(digests, line)
	}
	switch {
	case limited.N == 0:
		return &ListError{0, "is larger than 64 MiB"}
	case errors.Is(lines.Err(), bufio.ErrTooLong):
		return &ListError{number + 1, "is longer than 64 KiB"}
	case lines.Err() != nil:
		return lines.Err()
	}
	digests = sorted(digests)
	h.blocked.common = func() []uint64 { return digests }
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
func fold(word string) string { return strings.ToLower(normalize(word)) }

// add appends the digests of words. Words that are too short to be passwords anyway take no place.
func add(digests []uint64, words ...string) []uint64 {
	for _, word := range words {
		if len(word) < MinLength {
			continue
		}
		if folded := fold(word); utf8.RuneCountInString(folded) >= MinLength {
			digests = append(digests, maphash.String(seed, folded))
		}
	}
	return digests
}

// sorted returns the digests in order, each once, without the room that append left.
func sorted(digests []uint64) []uint64 {
	slices.Sort(digests)
	return slices.Clone(slices.Compact(digests))
}

// isCommon reports whether the password is on the list: as it is, without the digits, punctuation and
// spaces that people put before and behind a word, as in jennifer1, or as a word that is repeated.
func (b blocklist) isCommon(password string) bool {
	folded := fold(password)
	bare := strings.TrimFunc(folded, func(r rune) bool { return unicode.IsDigit(r) || unicode.IsPunct(r) || unicode.IsSpace(r) })
	return slices.ContainsFunc([]string{folded, bare, repeated(folded)}, func(word string) bool {
		return utf8.RuneCountInString(word) >= MinLength && b.lists(word)
	})
}

// repeated returns the shortest text of which the given one is a repetition: itself if there is none.
func repeated(text string) string {
	if text == "" {
		return ""
	}
	again := strings.Index((text + text)[1:], text) + 1
	return text[:again]
}

func (b blocklist) lists(folded string) bool {
	_, found := slices.BinarySearch(b.common(), maphash.String(seed, folded))
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
