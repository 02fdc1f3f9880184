package handlers

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/persistence"
)

// The purposes of links and codes. What was made for one is good for no other.
const (
	purposeVerify = "verify"
	purposeReset  = "reset"
	purposeChange = "change"
	purposeUndo   = persistence.PurposeUndo
	purposeNotMe  = "not_me"
	purposeLogin  = "login"
	purposeDecoy  = "decoy" // stands where another would if there were an account
	// purposeRecover is purposeReset after a containment: no request of a stranger voids it.
	purposeRecover = "recover"
)

// labelRegistration separates the digests of registration secrets from those of links and codes.
const labelRegistration = "registration"

// pages are where links lead, below PUBLIC_URL.
var pages = map[string]string{
	purposeVerify: "/email/verify",
	purposeReset:  "/password/reset",
	purposeChange: "/email/change",
	purposeUndo:   "/email/undo",
	purposeNotMe:  "/not-me",

	purposeRecover: "/password/reset",
}

// alarms are the links that the owner has against an intruder. So an intruder must not be able to
// void them, neither by another password or address nor by asking for more mails.
var alarms = []string{purposeUndo, purposeNotMe, purposeRecover}

// maxRegistrations is how many registrations of one address wait side by side. By default the limits
// of mails let fewer through while a link lives, so that no stranger can void the owner's.
const maxRegistrations = 300

// codeDigits is the length of a code: 26 bits.
const codeDigits = 8

// mailSent is the message of whatever answers alike whether there is an account or not.
const mailSent = "If there is an account for it, a mail is on its way"

// OneTimes makes and takes the links and codes that mails carry. All fields but Clock are
// required. A nil one means that there is no mail.
//
// A link has 130 random bits, a code eight digits. What is stored of either is a digest, keyed
// with a secret and bound to its purpose, that of a code to its address as well. Whoever makes,
// takes or voids one holds first the address, then the user, then the row, always in this order.
type OneTimes struct {
	Store     *persistence.Store
	Mails     *Mails
	Base      string        // PUBLIC_URL, without a slash at its end
	VerifyTTL time.Duration // of links that prove an address
	ResetTTL  time.Duration // of links to set another password
	AlarmTTL  time.Duration // of links that take something back
	CodeTTL   time.Duration
	Clock     clock.Func
}

// recipient is whom a mail goes to: an account, or an address that is to get one.
type recipient struct {
	address email.Address
	user    auth.User // zero if there is no account that a mail may go to
}

// ask is a mail to be asked for and what it lets its reader do.
type ask struct {
	kind    events.MailKind
	purpose string // "" lets do nothing
	to      recipient
	client  auth.ClientInfo
	grants  persistence.OneTime // Password, Name, Locale, Registration and SessionID of it
	address string              // Mail.Address
}

// ttl is how long what a mail lets do is good for.
func (o *OneTimes) ttl(purpose string) time.Duration {
	switch purpose {
	case purposeReset, purposeRecover:
		return o.ResetTTL
	case purposeUndo, purposeNotMe:
		return o.AlarmTTL
	case purposeLogin, purposeDecoy:
		return o.CodeTTL
	}
	return o.VerifyTTL
}

// send asks for a mail in the transaction, which has to hold the address and the user. What was
// asked for before with the same purpose is void then, unless it is an alarm.
func (o *OneTimes) send(ctx context.Context, tx *persistence.Store, a ask) error {
	now := o.Clock.Now()
	mail := events.Mail{
		Kind: a.kind, UserID: a.to.user.UserID, To: a.to.address.Display, Name: a.to.user.Name, Locale: a.to.user.Locale,
		Address: a.address, Client: a.client, Device: device(a.client.UserAgent), At: now,
	}
	if a.purpose == "" {
		if _, err := o.standIn(ctx, tx, a.to.address); err != nil {
			return err
		}
		return o.Mails.request(ctx, tx, now, mail)
	}
	one, token, code := o.make(a, now)
	if pages[a.purpose] != "" {
		mail.Link = o.Base + pages[a.purpose] + "#token=" + token
		if a.purpose == purposeVerify || pages[a.purpose] == pages[purposeReset] { // the page asks for a password
			mail.Link += "&email=" + url.QueryEscape(a.to.address.Display)
		}
	}
	mail.Code, mail.ExpiresAt = code, one.ExpiresAt
	if one.CodeExpiresAt.Before(one.ExpiresAt) {
		mail.CodeExpiresAt = one.CodeExpiresAt
	}
	if err := o.replace(ctx, tx, one); err != nil {
		return err
	}
	return o.Mails.request(ctx, tx, now, mail)
}

// sendNobody does what send does, but for the mail: it takes as long, and nothing comes of it.
func (o *OneTimes) sendNobody(ctx context.Context, tx *persistence.Store, to email.Address) error {
	token, err := o.standIn(ctx, tx, to)
	if err != nil {
		return err
	}
	now := o.Clock.Now()
	return o.Mails.request(ctx, tx, now, events.Mail{
		Kind: events.MailNone, To: to.Key, Link: o.Base + pages[purposeReset] + "#token=" + token, At: now, ExpiresAt: now,
	})
}

// standIn stores something that lets nobody do anything, for the time that it takes, and returns
// its token.
func (o *OneTimes) standIn(ctx context.Context, tx *persistence.Store, to email.Address) (token string, err error) {
	one, token, _ := o.make(ask{purpose: purposeDecoy, to: recipient{address: email.Address{Key: to.Key}}}, o.Clock.Now())
	return token, o.replace(ctx, tx, one)
}

// replace stores a row in place of the older ones of its purpose. Alarms are never replaced, and
// registrations only by a newer mail of the same one: a stranger must not be able to void a link
// that the owner of the mailbox asked for.
func (o *OneTimes) replace(ctx context.Context, tx *persistence.Store, one persistence.OneTime) error {
	if one.Password != "" {
		if err := tx.MakeRoom(ctx, one.Purpose, one.EmailKey, one.Password, maxRegistrations); err != nil {
			return err
		}
		return tx.AddOneTime(ctx, one)
	}
	if !slices.Contains(alarms, one.Purpose) {
		if err := tx.VoidOlder(ctx, one.Purpose, one.UserID, one.EmailKey); err != nil {
			return err
		}
	}
	return tx.AddOneTime(ctx, one)
}

// make makes a token and, where one can be typed, a code, and what is stored of them.
func (o *OneTimes) make(a ask, now time.Time) (one persistence.OneTime, token, code string) {
	one = a.grants
	token = rand.Text()
	one.Digest, one.Purpose = o.digests(a.purpose, "", token)[0], a.purpose
	one.UserID, one.Email, one.EmailKey = a.to.user.UserID, a.to.address.Display, a.to.address.Key
	one.CreatedAt, one.ExpiresAt = now, now.Add(o.ttl(a.purpose))
	if a.purpose == purposeVerify || a.purpose == purposeLogin {
		code = newCode()
		one.Code, one.CodeExpiresAt = o.digests(a.purpose, one.EmailKey, code)[0], clock.Earlier(now.Add(o.CodeTTL), one.ExpiresAt)
	}
	return one, token, code
}

func newCode() string {
	n, err := rand.Int(rand.Reader, new(big.Int).Exp(big.NewInt(10), big.NewInt(codeDigits), nil))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return fmt.Sprintf("%0*d", codeDigits, n)
}

// newRegistration makes the secret that proves later which caller made a registration, and its
// digest. The secret has 130 random bits and is bound to the address.
func (o *OneTimes) newRegistration(emailKey string) (proof *auth.RegistrationProof, digest string) {
	secret := rand.Text()
	proof = &auth.RegistrationProof{Secret: secret, ExpiresIn: int64(o.VerifyTTL / time.Second)}
	return proof, o.digests(labelRegistration, emailKey, secret)[0]
}

// registration returns the registration of an address that a secret belongs to, if it has not
// expired. ok is false if there is none. A row without a password is the one that made the account.
func (o *OneTimes) registration(ctx context.Context, from *persistence.Store, emailKey, secret string) (one persistence.OneTime, ok bool, err error) {
	if secret == "" {
		return persistence.OneTime{}, false, nil
	}
	one, err = from.Registration(ctx, purposeVerify, emailKey, o.Clock.Now(), o.digests(labelRegistration, emailKey, secret)...)
	if errors.Is(err, auth.ErrNotFound) {
		return persistence.OneTime{}, false, nil
	}
	return one, err == nil, err
}

// digests are those of a link's token, or of an address's code, under each master secret, the
// current one first. Neither purposes nor addresses hold a NUL.
func (o *OneTimes) digests(purpose, emailKey, text string) (all []string) {
	for _, k := range o.Mails.Keys {
		mac := hmac.New(sha256.New, k.Derive(secret.LabelOneTime))
		mac.Write([]byte(purpose + "\x00" + emailKey + "\x00" + text))
		all = append(all, base64.RawURLEncoding.EncodeToString(mac.Sum(nil)))
	}
	return all
}

// present finds what the token of a request is for, and reads where the request comes from. It
// returns auth.ErrNotFound if there is no mail.
func (o *OneTimes) present(ctx context.Context, purpose, token string, c *auth.ClientInfo) (persistence.OneTime, auth.ClientInfo, error) {
	if o == nil {
		return persistence.OneTime{}, auth.ClientInfo{}, auth.ErrNotFound
	}
	from, faults := client(c)
	if token == "" {
		faults = append(faults, auth.Field{Field: "token", Reason: reasonRequired})
	}
	if faults != nil {
		return persistence.OneTime{}, auth.ClientInfo{}, auth.ErrInvalid.With(faults...)
	}
	one, err := o.find(ctx, purpose, token)
	return one, from, err
}

// find returns what a link's token is for. It returns auth.ErrInvalidToken for one that was
// used, voided or has expired, that is for something else, or that never was.
func (o *OneTimes) find(ctx context.Context, purpose, token string) (persistence.OneTime, error) {
	one, err := o.Store.OneTime(ctx, purpose, o.Clock.Now(), o.digests(purpose, "", token)...)
	return one, isOver(err)
}

// findCode is find by an address and its code.
func (o *OneTimes) findCode(ctx context.Context, purpose string, address email.Address, code string) (persistence.OneTime, error) {
	one, err := o.Store.OneTimeByCode(ctx, purpose, o.Clock.Now(), o.digests(purpose, address.Key, code)...)
	return one, isOver(err)
}

func isOver(err error) error {
	if errors.Is(err, auth.ErrNotFound) {
		return auth.ErrInvalidToken
	}
	return err
}

// take uses up what was found, with what fn does, in one transaction; if that fails it is as
// good as before. fn gets the user, who is held, and is nobody if the address has no account. It
// returns auth.ErrInvalidToken if somebody else was faster, if the user is disabled, or has
// another address by now.
func (o *OneTimes) take(ctx context.Context, one persistence.OneTime, fn func(context.Context, *persistence.Store, auth.User) error) error {
	return o.holding(ctx, one.EmailKey, func(ctx context.Context, tx *persistence.Store) error {
		user, err := o.holder(ctx, tx, one)
		if err != nil {
			return err
		}
		taken, err := tx.TakeOneTime(ctx, one.Digest, o.Clock.Now())
		if err == nil && !taken {
			err = auth.ErrInvalidToken
		}
		if err != nil {
			return err
		}
		return fn(ctx, tx, user)
	})
}

// holder holds the user whom a link or code is about.
func (o *OneTimes) holder(ctx context.Context, tx *persistence.Store, one persistence.OneTime) (auth.User, error) {
	if one.UserID == 0 {
		user, err := tx.HoldUserByEmail(ctx, one.EmailKey)
		if errors.Is(err, auth.ErrNotFound) {
			return auth.User{}, nil
		}
		return user, err
	}
	user, err := tx.HoldUser(ctx, one.UserID)
	switch {
	case err != nil:
		return auth.User{}, isOver(err)
	case !user.DisabledAt.IsZero(), user.Email != one.Email && one.Purpose != purposeChange && one.Purpose != purposeUndo:
		return auth.User{}, auth.ErrInvalidToken
	}
	return user, nil
}

// holding runs fn in a transaction that holds an address: nobody else makes or takes links and
// codes for it meanwhile.
func (o *OneTimes) holding(ctx context.Context, emailKey string, fn func(context.Context, *persistence.Store) error) error {
	return o.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		if err := tx.Lock(ctx, "mailbox/"+emailKey); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

// reach holds the account that an address has, for a mail to it. ok is false if there is none
// that mail goes to: no account, or a disabled one.
func (o *OneTimes) reach(ctx context.Context, tx *persistence.Store, address email.Address) (to recipient, ok bool, err error) {
	user, err := tx.HoldUserByEmail(ctx, address.Key)
	switch {
	case errors.Is(err, auth.ErrNotFound):
		return recipient{}, false, nil
	case err != nil, !user.DisabledAt.IsZero():
		return recipient{}, false, err
	}
	return recipient{email.Address{Display: user.Email, Key: address.Key}, user}, true, nil
}

// occupant locks the account that keeps an address from others: the one that has it, or the one
// that it is reserved for. to is where a mail about the address goes. It returns auth.ErrNotFound if
// the address is free.
func (o *OneTimes) occupant(ctx context.Context, tx *persistence.Store, address email.Address) (user auth.User, to recipient, err error) {
	reserved, err := tx.Reservation(ctx, address.Key, o.Clock.Now())
	if errors.Is(err, auth.ErrNotFound) {
		user, err = tx.HoldUserByEmail(ctx, address.Key)
		return user, owner(user), err
	}
	if err != nil {
		return auth.User{}, recipient{}, err
	}
	user, err = tx.HoldUser(ctx, reserved.UserID)
	return user, recipient{email.Address{Display: reserved.Email, Key: reserved.EmailKey}, user}, err
}

// owner is an account's owner, at the address that is stored.
func owner(user auth.User) recipient { return recipient{email.ParseOrZero(user.Email), user} }

func always(persistence.OneTime) bool { return true }

// charged counts a request for a mail and returns where it comes from.
func (o *OneTimes) charged(ctx context.Context, limits *ratelimit.Limiter, address string, c *auth.ClientInfo) (auth.ClientInfo, error) {
	from, faults := client(c)
	if faults != nil {
		return auth.ClientInfo{}, auth.ErrInvalid.With(faults...)
	}
	_, err := limits.ReserveMail(ctx, address, from)
	return from, err
}

// verifyAgain asks for another mail to verify an address with, if an account of the address is not
// verified, or a registration waits; the mail belongs to the newest one. wanted decides by the last
// mail of the account or registration, which is zero if none is valid any more.
func (o *OneTimes) verifyAgain(ctx context.Context, address email.Address, from auth.ClientInfo, wanted func(last persistence.OneTime) bool) error {
	return o.holding(ctx, address.Key, func(ctx context.Context, tx *persistence.Store) error {
		to, reached, err := o.reach(ctx, tx, address)
		if err != nil {
			return err
		}
		latest := tx.LatestRegistration
		if reached {
			latest = tx.LatestOneTime
		}
		last, err := latest(ctx, purposeVerify, address.Key, o.Clock.Now())
		none := errors.Is(err, auth.ErrNotFound)
		if err != nil && !none {
			return err
		}
		waits := reached && !to.user.EmailVerified || !none && last.UserID == 0 && !reached
		if !waits || !wanted(last) {
			return o.sendNobody(ctx, tx, address)
		}
		if !reached {
			to = recipient{email.Address{Display: last.Email, Key: last.EmailKey}, auth.User{Account: auth.Account{Name: last.Name, Locale: last.Locale}}}
		}
		return o.send(ctx, tx, ask{
			kind: events.MailVerify, purpose: purposeVerify, to: to, client: from,
			grants: persistence.OneTime{Password: last.Password, Name: last.Name, Locale: last.Locale, Registration: last.Registration},
		})
	})
}

// sendIfReached sends a mail to whoever has the address that a request names.
func (o *OneTimes) sendIfReached(ctx context.Context, text string, a ask) error {
	address := email.ParseOrZero(text)
	return o.holding(ctx, address.Key, func(ctx context.Context, tx *persistence.Store) error {
		to, reached, err := o.reach(ctx, tx, address)
		switch {
		case err != nil:
			return err
		case !reached:
			return o.sendNobody(ctx, tx, address)
		}
		a.to = to
		return o.send(ctx, tx, a)
	})
}
