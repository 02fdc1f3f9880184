package password

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/text/unicode/norm"
)

const (
	pwnedTimeout = time.Second      // for the whole answer
	pwnedPause   = 30 * time.Second // after a failure, nobody is asked for so long
	maxRange     = 1 << 20          // bytes; the longest that are known have some 100 KB
	prefixLength = 5                // hexadecimal digits of the hash that leave the house
)

// Pwned asks a server of the Pwned Passwords range protocol whether a password is among those
// that became known. The server learns the first 20 bits of its SHA-1 hash, which a thousand
// or more of the known ones share, and by padding nobody in between learns more from the
// length of the answer.
//
// Where there is no answer the password is taken: people must be able to register while
// somebody else's server is away. The log says so once, and again when answers come.
//
// https://haveibeenpwned.com/API/v3#PwnedPasswords
type Pwned struct {
	Now func() time.Time // time.Now

	url, agent string
	log        *slog.Logger
	client     http.Client

	mu      sync.Mutex
	resume  time.Time // before then nobody is asked
	skipped int       // passwords that were taken unasked since the first failure
}

// NewPwned makes a Pwned. The URL is that of the ranges, without the slash at its end, as in
// https://api.pwnedpasswords.com/range. The agent is who we are, for the header User-Agent,
// which the public server insists on.
func NewPwned(url, agent string, log *slog.Logger) *Pwned {
	transport := http.DefaultTransport.(*http.Transport).Clone() // with the environment's proxy
	transport.MaxResponseHeaderBytes = 16 << 10
	refuse := func(*http.Request, []*http.Request) error { return errRedirect }
	return &Pwned{
		Now: time.Now, url: url, agent: agent, log: log,
		client: http.Client{Transport: transport, CheckRedirect: refuse},
	}
}

// Close ends the connections that wait for the next question.
func (p *Pwned) Close() error {
	p.client.CloseIdleConnections()
	return nil
}

// knows tells whether a password is known to have become known.
func (p *Pwned) knows(ctx context.Context, password string) bool {
	if !p.begin() {
		return false
	}
	found, err := p.ask(ctx, password)
	if ctx.Err() != nil { // the caller went, which says nothing about the server
		return false
	}
	p.end(err)
	return found
}

// begin tells whether the server may be asked now. After a failure only one asks it, when the
// pause is over.
func (p *Pwned) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.Now()
	if now.Before(p.resume) {
		p.skipped++
		return false
	}
	if p.skipped > 0 {
		p.resume = now.Add(pwnedPause)
	}
	return true
}

// end notes whether the server answered.
func (p *Pwned) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		if p.skipped == 0 {
			p.log.Warn("pwned passwords do not answer: passwords are taken unasked", "err", err)
		}
		p.skipped++
		p.resume = p.Now().Add(pwnedPause)
	case p.skipped > 0:
		p.log.Info("pwned passwords answer again", "unasked", p.skipped)
		p.skipped, p.resume = 0, time.Time{}
	}
}

var (
	errRedirect = errors.New("redirects are not followed")
	errTooLarge = errors.New("the answer is too large")
	errNoRange  = errors.New("the answer is no range of hashes")
)

// ask returns whether the password is in the range that the server gives. Its errors hold no
// part of the hash.
func (p *Pwned) ask(ctx context.Context, password string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, pwnedTimeout)
	defer cancel()
	sum := sha1.Sum([]byte(norm.NFC.String(password)))
	digits := strings.ToUpper(hex.EncodeToString(sum[:]))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/"+digits[:prefixLength], nil)
	if err != nil {
		return false, errors.New("no URL")
	}
	req.Header.Set("Add-Padding", "true")
	req.Header.Set("User-Agent", p.agent)
	resp, err := p.client.Do(req)
	if err != nil {
		return false, withoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("status %d", resp.StatusCode)
	}
	return inRange(resp.Body, digits[prefixLength:])
}

// withoutURL takes the URL out of an error of http.Client, since the prefix stands in it.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// inRange looks for the rest of a hash in lines as in 0018A45C4D1DEF81644B54AB7F969B88D65:10.
// A count of 0 is padding.
func inRange(body io.Reader, suffix string) (bool, error) {
	found := false
	limited := &io.LimitedReader{R: body, N: maxRange + 1}
	lines := bufio.NewScanner(limited)
	for lines.Scan() && limited.N > 0 {
		rest, text, _ := strings.Cut(lines.Text(), ":")
		count, err := strconv.ParseUint(text, 10, 64)
		if err != nil || len(rest) != len(suffix) {
			return false, errNoRange
		}
		if count > 0 && strings.EqualFold(rest, suffix) {
			found = true
		}
	}
	switch {
	case limited.N == 0:
		return false, errTooLarge
	case errors.Is(lines.Err(), bufio.ErrTooLong):
		return false, errNoRange
	case lines.Err() != nil:
		return false, lines.Err()
	}
	return found, nil
}
