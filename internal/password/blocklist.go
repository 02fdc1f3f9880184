package password

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ccojocar/zxcvbn-go/data"
	"golang.org/x/text/unicode/norm"
)

// commonList is the file of passwords, commonest first, that zxcvbn ranks by.
const commonList = "data/Passwords.json"

// minContextLength is the shortest word that counts as context: shorter ones are part of
// many others. In code points.
const minContextLength = 3

// blocklist refuses passwords that many people use, or that tell of their owner.
type blocklist struct {
	common map[string]struct{} // as fold writes them
	names  []string            // of the service
}

func newBlocklist(names []string) (blocklist, error) {
	asset, err := data.Asset(commonList)
	if err != nil {
		return blocklist{}, fmt.Errorf("common passwords: %w", err)
	}
	var file struct{ List []string }
	if err := json.Unmarshal(asset, &file); err != nil {
		return blocklist{}, fmt.Errorf("common passwords: %w", err)
	}
	b := blocklist{common: make(map[string]struct{}, len(file.List)), names: names}
	for _, word := range file.List {
		b.common[fold(word)] = struct{}{}
	}
	return b, nil
}

// fold brings a word into the form that is compared here: letter case does not help.
func fold(word string) string { return strings.ToLower(norm.NFC.String(word)) }

// isCommon tells whether the password is on the list.
func (b blocklist) isCommon(password string) bool {
	_, found := b.common[fold(password)]
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
