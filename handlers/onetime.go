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

// The purposes of links and codes. A link or code is valid for its purpose only.
const (
	purposeVerify = "verify"
	purposeReset  = "reset"
	purposeChange = "change"
	purposeUndo   = persistence.PurposeUndo
	purposeNotMe  = "not_me"
	purposeLogin  = "login"
	purposeDecoy  = "decoy" // of the row stored for an address without an account
	// purposeRecover is purposeReset after a containment: a stranger's request does not void it.
	purposeRecover = "recover"
)

// labelRegistration separates the digests of registration secrets from those of links and codes.
const labelRegistration = "registration"

// pages are the paths of links below PUBLIC_URL.
var pages = map[string]string{
	purposeVerify: "/email/verify",
	purposeReset:  "/password/reset",
	purposeChange: "/email/change",
	purposeUndo:   "/email/undo",
	purposeNotMe:  "/not-me",

	purposeRecover: "/password/reset",
}

// undoPurposes are the purposes of links that an owner uses against an intruder. An intruder must not be able
// to void them by changing the password or address, or by requesting more mails.
var undoPurposes = []string{purposeUndo, purposeNotMe, purposeRecover}

// maxRegistrations is the maximum number of pending registrations of one address. With the default rate limits
// of mails there are fewer within the lifetime of a link, so a stranger cannot void the owner's registration.
const maxRegistrations = 300

// codeDigits is the length of a code: 26 bits.
const codeDigits = 8

// mailSent is the message of replies that do not reveal whether the account exists.
const mailSent = "If there is an account for it, a mail is on its way"

// OneTimeTokens makes and redeems the links and codes in mails. All fields but Clock are required. A nil
// OneTimeTokens means that the service sends no mail.
//
// A link has 130 random bits, a code eight digits. The database stores a digest of each, keyed with a
// secret and bound to its purpose; the digest of a code is also bound to its address. A transaction that
// makes, redeems or voids a link or code locks the address first, then the user, then the row.
type OneTimeTokens struct {
	Store     *persistence.Store
	Mails     *Mails
	Base      string        // PUBLIC_URL, without a trailing slash
	VerifyTTL time.Duration // of links that prove an address
	ResetTTL  time.Duration // of links to set a new password
	AlarmTTL  time.Duration // of links that undo a change or contain the account
	CodeTTL   time.Duration
	Clock     clock.Func
}

// recipient is the recipient of a mail: an account, or an address without an account.
type recipient struct {
	address email.Address
	user    auth.User // zero if no account may receive the mail
}

// mailRequest is a mail to send, and the link or code in it.
type mailRequest struct {
	kind    events.MailKind
	purpose string // of the link or code; "" sends neither
	to      recipient
	client  auth.ClientInfo
	payload persistence.OneTime // only Password, Name, Locale, Registration and SessionID
	address string              // Mail.Address
}

// ttl returns the lifetime of links and codes for a purpose.
func (o *OneTimeTokens) ttl(purpose string) time.Duration {
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

// send requests a mail in the transaction, which must have locked the address and the user. It voids earlier
// links and codes of the same purpose, except those of undoPurposes.
func (o *OneTimeTokens) send(ctx context.Context, tx *persistence.Store, a mailRequest) error {
	now := o.Clock.Now()
	mail := events.Mail{
		Kind: a.kind, UserID: a.to.user.UserID, To: a.to.address.Display, Name: a.to.user.Name, Locale: a.to.user.Locale,
		Address: a.address, Client: a.client, Device: device(a.client.UserAgent), At: now,
	}
	if a.purpose == "" {
		if _, err := o.decoy(ctx, tx, a.to.address); err != nil {
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

// sendDecoy does the work of send for an address without a recipient, so that the reply takes equally long. It
// sends no mail.
func (o *OneTimeTokens) sendDecoy(ctx context.Context, tx *persistence.Store, to email.Address) error {
	token, err := o.decoy(ctx, tx, to)
	if err != nil {
		return err
	}
	now := o.Clock.Now()
	return o.Mails.request(ctx, tx, now, events.Mail{
		Kind: events.MailNone, To: to.Key, Link: o.Base + pages[purposeReset] + "#token=" + token, At: now, ExpiresAt: now,
	})
}

// decoy stores a row that no token redeems, so that the reply takes as long as a real one, and returns the
// token of its link.
func (o *OneTimeTokens) decoy(ctx context.Context, tx *persistence.Store, to email.Address) (token string, err error) {
	one, token, _ := o.make(mailRequest{purpose: purposeDecoy, to: recipient{address: email.Address{Key: to.Key}}}, o.Clock.Now())
	return token, o.replace(ctx, tx, one)
}

// replace stores a row and deletes the older rows of its purpose. It never deletes rows of undoPurposes. It
// deletes a registration only for a newer mail of the same registration, or to keep maxRegistrations: a stranger
// must not be able to void a link that the owner of the mailbox requested.
func (o *OneTimeTokens) replace(ctx context.Context, tx *persistence.Store, one persistence.OneTime) error {
	if one.Password != "" {
		if err := tx.MakeRoom(ctx, one.Purpose, one.EmailKey, one.Password, maxRegistrations); err != nil {
			return err
		}
		return tx.AddOneTime(ctx, one)
	}
	if !slices.Contains(undoPurposes, one.Purpose) {
		if err := tx.VoidOlder(ctx, one.Purpose, one.UserID, one.EmailKey); err != nil {
			return err
		}
	}
	return tx.AddOneTime(ctx, one)
}

// make returns the row of a mail request, its token and, for purposeVerify and purposeLogin, its code.
func (o *OneTimeTokens) make(a mailRequest, now time.Time) (one persistence.OneTime, token, code string) {
	one = a.payload
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

// newRegistration returns the secret that later proves which caller made a registration, and its
// digest. The secret has 130 random bits and is bound to the address.
func (o *OneTimeTokens) newRegistration(emailKey string) (proof *auth.RegistrationProof, digest string) {
	secret := rand.Text()
	proof = &auth.RegistrationProof{Secret: secret, ExpiresIn: int64(o.VerifyTTL / time.Second)}
	return proof, o.digests(labelRegistration, emailKey, secret)[0]
}

// registration returns the unexpired registration of an address that a secret belongs to. ok is false if
// there is none. A row without a password is the registration that made the account.
func (o *OneTimeTokens) registration(ctx context.Context, from *persistence.Store, emailKey, secret string) (one persistence.OneTime, ok bool, err error) {
	if secret == "" {
		return persistence.OneTime{}, false, nil
	}
	one, err = from.Registration(ctx, purposeVerify, emailKey, o.Clock.Now(), o.digests(labelRegistration, emailKey, secret)...)
	if errors.Is(err, auth.ErrNotFound) {
		return persistence.OneTime{}, false, nil
	}
	return one, err == nil, err
}

// digests returns the digests of the token of a link, or of the code for an address, under each master
// secret, the current one first. Neither purposes nor addresses contain a NUL.
func (o *OneTimeTokens) digests(purpose, emailKey, text string) (all []string) {
	for _, k := range o.Mails.Keys {
		mac := hmac.New(sha256.New, k.Derive(secret.LabelOneTime))
		mac.Write([]byte(purpose + "\x00" + emailKey + "\x00" + text))
		all = append(all, base64.RawURLEncoding.EncodeToString(mac.Sum(nil)))
	}
	return all
}

// present finds the row of a request's token and reads the client of the request. It returns
// auth.ErrNotFound if the service sends no mail.
func (o *OneTimeTokens) present(ctx context.Context, purpose, token string, c *auth.ClientInfo) (persistence.OneTime, auth.ClientInfo, error) {
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

// find returns the row of a link's token. It returns auth.ErrInvalidToken for an unknown, used, voided or
// expired token, and for one of another purpose.
func (o *OneTimeTokens) find(ctx context.Context, purpose, token string) (persistence.OneTime, error) {
	one, err := o.Store.OneTime(ctx, purpose, o.Clock.Now(), o.digests(purpose, "", token)...)
	return one, asInvalidToken(err)
}

// findCode is find for an address and its code.
func (o *OneTimeTokens) findCode(ctx context.Context, purpose string, address email.Address, code string) (persistence.OneTime, error) {
	one, err := o.Store.OneTimeByCode(ctx, purpose, o.Clock.Now(), o.digests(purpose, address.Key, code)...)
	return one, asInvalidToken(err)
}

// asInvalidToken returns auth.ErrInvalidToken for auth.ErrNotFound, and any other error unchanged.
func asInvalidToken(err error) error {
	if errors.Is(err, auth.ErrNotFound) {
		return auth.ErrInvalidToken
	}
	return err
}

// take redeems a row and runs fn in one transaction; if fn fails, the link or code stays valid. fn receives the
// locked user, or the zero User if the address has no account. take returns auth.ErrInvalidToken if another
// request has redeemed the row, the user is disabled or deleted, or the user's address has changed.
func (o *OneTimeTokens) take(ctx context.Context, one persistence.OneTime, fn func(context.Context, *persistence.Store, auth.User) error) error {
	return o.withAddressLock(ctx, one.EmailKey, func(ctx context.Context, tx *persistence.Store) error {
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

// holder locks and returns the user of a link or code, or the zero User if the address has no account. For a
// row with a user it returns auth.ErrInvalidToken as take does.
func (o *OneTimeTokens) holder(ctx context.Context, tx *persistence.Store, one persistence.OneTime) (auth.User, error) {
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
		return auth.User{}, asInvalidToken(err)
	case !user.DisabledAt.IsZero(), user.Email != one.Email && one.Purpose != purposeChange && one.Purpose != purposeUndo:
		return auth.User{}, auth.ErrInvalidToken
	}
	return user, nil
}

// withAddressLock runs fn in a transaction that locks an address: until the transaction ends, no other
// transaction makes or redeems links and codes for the address.
func (o *OneTimeTokens) withAddressLock(ctx context.Context, emailKey string, fn func(context.Context, *persistence.Store) error) error {
	return o.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		if err := tx.Lock(ctx, "mailbox/"+emailKey); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

// recipientFor locks the account of an address and returns it as the recipient of a mail. ok is false if the
// address has no account or a disabled one.
func (o *OneTimeTokens) recipientFor(ctx context.Context, tx *persistence.Store, address email.Address) (to recipient, ok bool, err error) {
	user, err := tx.HoldUserByEmail(ctx, address.Key)
	switch {
	case errors.Is(err, auth.ErrNotFound):
		return recipient{}, false, nil
	case err != nil, !user.DisabledAt.IsZero():
		return recipient{}, false, err
	}
	return recipient{email.Address{Display: user.Email, Key: address.Key}, user}, true, nil
}

// occupant locks and returns the account that occupies an address: the account that has the address or holds
// its reservation. to is the recipient of a mail about the address. It returns auth.ErrNotFound if the
// address is free.
func (o *OneTimeTokens) occupant(ctx context.Context, tx *persistence.Store, address email.Address) (user auth.User, to recipient, err error) {
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

// owner returns the recipient for an account at its stored address.
func owner(user auth.User) recipient { return recipient{email.ParseOrZero(user.Email), user} }

func always(persistence.OneTime) bool { return true }

// reserveMail counts a request for a mail against the rate limits and returns its client. It returns
// auth.ErrInvalid for a client that is not valid, and the errors of ReserveMail.
func (o *OneTimeTokens) reserveMail(ctx context.Context, limits *ratelimit.Limiter, address string, c *auth.ClientInfo) (auth.ClientInfo, error) {
	from, faults := client(c)
	if faults != nil {
		return auth.ClientInfo{}, auth.ErrInvalid.With(faults...)
	}
	_, err := limits.ReserveMail(ctx, address, from)
	return from, err
}

// verifyAgain sends another mail to verify an address if its account is not verified, or if it has no account
// and a registration is pending; the mail then belongs to the newest registration. wanted decides by the last
// mail of the account or registration, which is zero if none is still valid. Otherwise it sends a decoy.
func (o *OneTimeTokens) verifyAgain(ctx context.Context, address email.Address, from auth.ClientInfo, wanted func(last persistence.OneTime) bool) error {
	return o.withAddressLock(ctx, address.Key, func(ctx context.Context, tx *persistence.Store) error {
		to, reached, err := o.recipientFor(ctx, tx, address)
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
			return o.sendDecoy(ctx, tx, address)
		}
		if !reached {
			to = recipient{email.Address{Display: last.Email, Key: last.EmailKey}, auth.User{Account: auth.Account{Name: last.Name, Locale: last.Locale}}}
		}
		return o.send(ctx, tx, mailRequest{
			kind: events.MailVerify, purpose: purposeVerify, to: to, client: from,
			payload: persistence.OneTime{Password: last.Password, Name: last.Name, Locale: last.Locale, Registration: last.Registration},
		})
	})
}

// sendIfReached sends a mail to the account of an address, or a decoy if the address has no account or a
// disabled one.
func (o *OneTimeTokens) sendIfReached(ctx context.Context, text string, a mailRequest) error {
	address := email.ParseOrZero(text)
	return o.withAddressLock(ctx, address.Key, func(ctx context.Context, tx *persistence.Store) error {
		to, reached, err := o.recipientFor(ctx, tx, address)
		switch {
		case err != nil:
			return err
		case !reached:
			return o.sendDecoy(ctx, tx, address)
		}
		a.to = to
		return o.send(ctx, tx, a)
	})
}
