package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
)

// usersCommand is "authd users". It calls the running service in the role admin, so that every
// instance and every verifier receives the changes.
type usersCommand struct {
	List        usersList        `cmd:"" help:"Show all accounts, a line each."`
	Show        usersShow        `cmd:"" help:"Show an account."`
	Disable     usersDisable     `cmd:"" help:"End a user's sessions and keep them from logging in."`
	Enable      usersEnable      `cmd:"" help:"Let a disabled user log in again."`
	EndSessions usersEndSessions `cmd:"" help:"End a user's sessions. They can log in again."`
	SetPassword usersSetPassword `cmd:"" help:"Give a user another password, and end their sessions. A disabled user stays disabled."`
}

type (
	usersList struct {
		adminSettings
		JSON  bool `name:"json" help:"Write an object a line."`
		Limit int  `placeholder:"NUMBER" help:"Most accounts to show; 0 is all."`
	}
	usersShow        struct{ oneUser }
	usersDisable     struct{ surely }
	usersEnable      struct{ oneUser }
	usersEndSessions struct{ surely }
	usersSetPassword struct {
		surely
		PasswordStdin bool `name:"password-stdin" help:"Read the password from standard input, not from the terminal. It is never an argument, which others could see."`
	}
)

// oneUser is a command about one account.
type oneUser struct {
	adminSettings
	User string `arg:"" help:"Id or address of the account."`
	JSON bool   `name:"json" help:"Write an object."`
}

// surely is a command about one account that ends its user's sessions, so it asks for confirmation.
type surely struct {
	oneUser
	Yes bool `help:"Do not ask whether that is meant."`
}

// asOperator runs fn with a connection to the service. The server immediately reports a request that
// the client may not send and that gets no reply: this cancels fn's ctx.
func (s adminSettings) asOperator(ctx context.Context, fn func(context.Context, *nats.Conn) error) error {
	conn, err := s.connectAsAdmin()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			cancel(err)
		}
	})
	return fn(ctx, conn)
}

// operate calls op. Its error names a remedy if the client lacks the right or no instance answers.
func operate[Req, Resp any](ctx context.Context, conn *nats.Conn, op auth.Op[Req, Resp], req Req) (Resp, error) {
	resp, err := bus.Call(ctx, conn, op, req)
	where := redacted(conn.ConnectedUrl())
	switch {
	case err == nil:
		return resp, nil
	case errors.Is(context.Cause(ctx), nats.ErrPermissionViolation):
		err = fmt.Errorf("only operators may ask %s at %s: NATS_CREDS or NATS_NKEY_SEED_FILE says who asks", op, where)
	case errors.Is(err, nats.ErrNoResponders):
		err = fmt.Errorf("nobody answers %s at %s: does \"authd serve\" run?", op, where)
	}
	return resp, err
}

func (cmd usersList) Run(ctx context.Context, out io.Writer) error {
	if cmd.Limit < 0 {
		return &settingError{"--limit", fmt.Sprintf("%d is less than 0", cmd.Limit), "100"}
	}
	return cmd.asOperator(ctx, func(ctx context.Context, conn *nats.Conn) error {
		show := userLines(out)
		if cmd.JSON {
			show = func(u auth.User) error { return json.NewEncoder(out).Encode(u) }
		}
		return eachUser(ctx, conn, cmd.Limit, show)
	})
}

// usersPage is the number of accounts per request, which is the maximum.
const usersPage = 500

// eachUser runs fn for the first limit accounts; 0 is all.
func eachUser(ctx context.Context, conn *nats.Conn, limit int, fn func(auth.User) error) error {
	for n, after := 0, auth.UserID(0); ; {
		size := usersPage
		if limit > 0 {
			size = min(size, limit-n)
		}
		page, err := operate(ctx, conn, auth.AdminUsersList, auth.AdminUsersListRequest{After: after, Limit: size})
		if err != nil {
			return err
		}
		for _, u := range page.Users {
			if err := fn(u); err != nil {
				return err
			}
		}
		n += len(page.Users)
		if after = page.Next; after == 0 || n == limit {
			return nil
		}
	}
}

// userLines writes accounts for people, each as soon as it arrives, so columns have fixed widths, and
// values of variable length come last.
func userLines(out io.Writer) func(auth.User) error {
	const columns = "%-8s  %-20s  %-20s  %s"
	head := false
	return func(u auth.User) error {
		if !head {
			head = true
			if _, err := fmt.Fprintf(out, columns+"\n", "ID", "CREATED", "DISABLED", "ACCOUNT"); err != nil {
				return err
			}
		}
		line := fmt.Sprintf(columns, fmt.Sprint(u.UserID), when(u.CreatedAt), since(u.DisabledAt), printable(u.Email+"  "+u.Name))
		_, err := fmt.Fprintln(out, strings.TrimRight(line, " "))
		return err
	}
}

// since formats a time that may be zero.
func since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return when(t)
}

func (cmd usersShow) Run(ctx context.Context, out io.Writer) error {
	return cmd.asOperator(ctx, func(ctx context.Context, conn *nats.Conn) error {
		user, err := cmd.find(ctx, conn)
		if err != nil {
			return err
		}
		if cmd.JSON {
			return json.NewEncoder(out).Encode(user)
		}
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(table, "id\t%d\nemail\t%s\nname\t%s\n", user.UserID, printable(user.Email), printable(user.Name))
		fmt.Fprintf(table, "created\t%s\nupdated\t%s\ndisabled\t%s\n", when(user.CreatedAt), when(user.UpdatedAt), since(user.DisabledAt))
		fmt.Fprintf(table, "sessions\t%d\n", user.Sessions)
		return table.Flush()
	})
}

// find requests the account that the argument names.
func (cmd oneUser) find(ctx context.Context, conn *nats.Conn) (auth.AdminUsersGetReply, error) {
	request := auth.AdminUsersGetRequest{Email: cmd.User}
	if id, err := strconv.ParseInt(cmd.User, 10, 64); err == nil {
		request = auth.AdminUsersGetRequest{UserID: auth.UserID(id)}
	}
	user, err := operate(ctx, conn, auth.AdminUsersGet, request)
	switch {
	case errors.Is(err, auth.ErrInvalid):
		return user, usageError(fmt.Sprintf("%q is neither an id nor an address", cmd.User))
	case errors.Is(err, auth.ErrNotFound):
		return user, fmt.Errorf("there is no account %q", cmd.User)
	}
	return user, err
}

// said returns the address and the id of an account, for messages.
func said(u auth.AdminUsersGetReply) string {
	return fmt.Sprintf("%s (id %d)", printable(u.Email), u.UserID)
}

// change asks for confirmation unless --yes is set, and then runs fn to change the account. verb begins
// the question.
func (cmd surely) change(ctx context.Context, t terminal, verb string, fn func(context.Context, *nats.Conn, auth.AdminUsersGetReply) error) error {
	if !cmd.Yes && !t.isThere() {
		return usageError("there is no terminal to ask on whether that is meant: say --yes")
	}
	return cmd.asOperator(ctx, func(ctx context.Context, conn *nats.Conn) error {
		user, err := cmd.find(ctx, conn)
		if err != nil {
			return err
		}
		if !cmd.Yes {
			sure, err := t.confirm(ctx, verb+" "+said(user)+"?")
			if err != nil {
				return err
			}
			if !sure {
				return errors.New("not confirmed: nothing was changed")
			}
		}
		return fn(ctx, conn, user)
	})
}

// userOutcome is the result of a command, for scripts.
type userOutcome struct {
	UserID     auth.UserID `json:"userId"`
	Email      string      `json:"email"`
	DisabledAt time.Time   `json:"disabledAt,omitzero"`
	Ended      int         `json:"ended"` // number of sessions
}

// tell prints the result as text or as JSON.
func (cmd oneUser) tell(out io.Writer, done userOutcome, words string, args ...any) (err error) {
	if cmd.JSON {
		return json.NewEncoder(out).Encode(done)
	}
	_, err = fmt.Fprintf(out, words+"\n", args...)
	return err
}

func (cmd usersDisable) Run(ctx context.Context, t terminal, out io.Writer) error {
	return cmd.change(ctx, t, "Disable", func(ctx context.Context, conn *nats.Conn, user auth.AdminUsersGetReply) error {
		done, err := operate(ctx, conn, auth.AdminUsersDisable, auth.AdminUsersDisableRequest{UserID: user.UserID})
		if err != nil {
			return err
		}
		return cmd.tell(out, userOutcome{user.UserID, user.Email, done.DisabledAt, done.Ended},
			"%s is disabled since %s; sessions ended: %d", said(user), when(done.DisabledAt), done.Ended)
	})
}

func (cmd usersEnable) Run(ctx context.Context, out io.Writer) error {
	return cmd.asOperator(ctx, func(ctx context.Context, conn *nats.Conn) error {
		user, err := cmd.find(ctx, conn)
		if err != nil {
			return err
		}
		if _, err := operate(ctx, conn, auth.AdminUsersEnable, auth.AdminUsersEnableRequest{UserID: user.UserID}); err != nil {
			return err
		}
		return cmd.tell(out, userOutcome{UserID: user.UserID, Email: user.Email}, "%s can log in", said(user))
	})
}

func (cmd usersEndSessions) Run(ctx context.Context, t terminal, out io.Writer) error {
	return cmd.change(ctx, t, "End the sessions of", func(ctx context.Context, conn *nats.Conn, user auth.AdminUsersGetReply) error {
		done, err := operate(ctx, conn, auth.AdminUsersEndSessions, auth.AdminUsersEndSessionsRequest{UserID: user.UserID})
		if err != nil {
			return err
		}
		return cmd.tell(out, userOutcome{user.UserID, user.Email, user.DisabledAt, done.Ended},
			"%s: sessions ended: %d", said(user), done.Ended)
	})
}

func (cmd usersSetPassword) Run(ctx context.Context, t terminal, out io.Writer) error {
	read := func() (string, error) { return t.password(ctx) }
	switch {
	case cmd.PasswordStdin && !cmd.Yes:
		return usageError("--password-stdin leaves nowhere to ask whether that is meant: say --yes")
	case cmd.PasswordStdin:
		read = t.piped
	case !t.isThere():
		return usageError("there is no terminal to read the password from: say --password-stdin")
	}
	return cmd.change(ctx, t, "Set the password of", func(ctx context.Context, conn *nats.Conn, user auth.AdminUsersGetReply) error {
		password, err := read()
		if err != nil {
			return err
		}
		if !utf8.ValidString(password) { // JSON encoding would change it
			return errors.New("the password is not taken: not_unicode")
		}
		request := auth.AdminUsersSetPasswordRequest{UserID: user.UserID, Password: password}
		done, err := operate(ctx, conn, auth.AdminUsersSetPassword, request)
		if err != nil {
			return notTaken(err)
		}
		return cmd.tell(out, userOutcome{user.UserID, user.Email, user.DisabledAt, done.Ended},
			"%s has another password; sessions ended: %d", said(user), done.Ended)
	})
}

// notTaken returns an error with the reason if the service rejected the password, and otherwise err.
func notTaken(err error) error {
	for _, f := range auth.Public(err).Fields {
		if f.Field == "password" {
			return fmt.Errorf("the password is not taken: %s", f.Reason)
		}
	}
	return err
}
