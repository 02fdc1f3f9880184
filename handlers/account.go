package handlers

import (
	"context"
	"errors"
	"strings"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/persistence"
)

// Accounts makes accounts and shows them to their owners. All fields but Clock are required.
type Accounts struct {
	Store     *persistence.Store
	Passwords *password.Hasher
	Sessions  *Sessions
	Clock     Clock
}

// Register answers auth.register: it creates an account. It returns auth.ErrEmailTaken, or
// an auth.ErrInvalid error that names all members at fault; nothing is stored then.
func (a *Accounts) Register(ctx context.Context, req auth.RegisterRequest) (auth.RegisterReply, error) {
	address, err := a.checkRegister(req)
	if err != nil {
		return auth.RegisterReply{}, err
	}
	hash, err := a.Passwords.Hash(ctx, req.Password) // slow on purpose, so outside of a transaction
	if err != nil {
		return auth.RegisterReply{}, err
	}
	id, err := a.Store.CreateUser(ctx, persistence.NewUser{
		Email: address.Display, EmailKey: address.Key, Password: hash, Name: req.Name, At: a.Clock.now(),
	})
	if err != nil {
		return auth.RegisterReply{}, err
	}
	return auth.RegisterReply{Message: "User registered successfully", UserID: id}, nil
}

func (a *Accounts) checkRegister(req auth.RegisterRequest) (email.Address, error) {
	var faults []auth.Field
	address, err := email.Parse(req.Email)
	switch {
	case req.Email == "":
		faults = append(faults, auth.Field{Field: "email", Reason: reasonRequired})
	case err != nil:
		faults = append(faults, auth.Field{Field: "email", Reason: reasonInvalid})
	}
	if req.Password == "" {
		faults = append(faults, auth.Field{Field: "password", Reason: reasonRequired})
	} else if reason := a.Passwords.Check(req.Password, ownWords(address, req.Name)...); reason != "" {
		faults = append(faults, auth.Field{Field: "password", Reason: reason})
	}
	if reason := checkName(req.Name); reason != "" {
		faults = append(faults, auth.Field{Field: "name", Reason: reason})
	}
	_, wrong := client(req.Client)
	if faults = append(faults, wrong...); faults != nil {
		return email.Address{}, auth.ErrInvalid.With(faults...)
	}
	return address, nil
}

// ownWords are what a password of the account should not be made of.
func ownWords(address email.Address, name string) []string {
	local, _, _ := strings.Cut(address.Display, "@")
	return []string{address.Display, local, name}
}

// Get answers auth.account.get: the account of the token's user. It returns the errors of
// Sessions.Verify for tokens that are not valid now.
func (a *Accounts) Get(ctx context.Context, req auth.AccountGetRequest) (auth.Account, error) {
	user, err := a.Sessions.user(ctx, req.Bearer)
	if err != nil {
		return auth.Account{}, err
	}
	account, err := a.Store.Account(ctx, user.UserID)
	if errors.Is(err, auth.ErrNotFound) {
		return auth.Account{}, auth.ErrTokenRevoked // deleted since the token was looked at
	}
	return account, err
}
