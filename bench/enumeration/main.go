// Command enumeration tries to find out who has an account. It starts authd on loopback, sends
// logins that fail for different reasons, requests for mails and registrations, interleaved, over
// HTTP and over the bus, and prints how long each kind took in the median and how likely its times
// are if they came from the same distribution as those of the first kind (Mann-Whitney U,
// two-sided); and whether status, body and headers are the same:
//
//	go run ./bench/enumeration
//
// A p that is small, run after run, tells the kinds apart.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aclements/go-moremath/stats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
)

const password = "correct horse battery"

func main() {
	tries := flag.Int("tries", 300, "tries of each kind")
	flag.Parse()
	if err := run(context.Background(), *tries); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, tries int) (err error) {
	binary, dir, clean, err := daemon.Build()
	if err != nil {
		return err
	}
	defer clean()
	free, err := daemon.Start(binary, filepath.Join(dir, "free"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, free.Stop()) }()
	if err := people(ctx, free); err != nil {
		return err
	}
	if err := compare(ctx, "logins, without limits", free, tries, failing()); err != nil {
		return err
	}
	limited, err := daemon.Start(binary, filepath.Join(dir, "limited"), "--rate-limits=on",
		"--limit-login=1/15m", "--limit-login-source=1000/100ms", "--limit-register-source=1000/100ms")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, limited.Stop()) }()
	if err := people(ctx, limited); err != nil {
		return err
	}
	if err := compare(ctx, "logins that have to wait", limited, tries, waiting()); err != nil {
		return err
	}
	if err := raisedCost(ctx, binary, filepath.Join(dir, "raised"), tries); err != nil {
		return err
	}
	mailing, err := daemon.Start(binary, filepath.Join(dir, "mailing"), "--mailer=off", "--email-verification=required")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mailing.Stop()) }()
	if err := people(ctx, mailing); err != nil {
		return err
	}
	if err := registerWaiting(ctx, mailing); err != nil {
		return err
	}
	for _, c := range []struct {
		title string
		kinds []kind
	}{
		{"logins where addresses have to be verified", unverified()},
		{"forgotten passwords", asking("/password/forgot", auth.PasswordForgot)},
		{"another mail to verify an address by", asking("/email/resend", auth.EmailResend)},
		{"registrations where addresses have to be verified", registering()},
	} {
		if err := compare(ctx, c.title, mailing, tries, c.kinds); err != nil {
			return err
		}
	}
	return nil
}

// raisedCost compares logins at accounts whose passwords were stored before BCRYPT_COST was raised,
// and in other schemes.
func raisedCost(ctx context.Context, binary, dir string, tries int) (err error) {
	before, err := daemon.Start(binary, dir)
	if err != nil {
		return err
	}
	if err := errors.Join(people(ctx, before), before.Stop()); err != nil {
		return err
	}
	if err := importCheap(binary, dir); err != nil {
		return err
	}
	after, err := daemon.Start(binary, dir, "--bcrypt-cost=12")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, after.Stop()) }()
	return compare(ctx, "logins after BCRYPT_COST was raised from 10 to 12", after, tries, []kind{
		login("unknown address", "eve@example.com", "wrong horse battery"),
		login("stored at cost 10", "ada@example.com", "wrong horse battery"),
		login("cost 10, disabled, right", "off@example.com", password),
		login("imported PBKDF2", "pbkdf2@example.com", "wrong horse battery"),
		login("imported argon2id", "argon2id@example.com", "wrong horse battery"),
	})
}

// importCheap imports accounts whose passwords cost less than bcrypt's 12.
func importCheap(binary, dir string) error {
	const lines = `{"email":"pbkdf2@example.com","password":"$pbkdf2-sha256$i=100000$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA"}
{"email":"argon2id@example.com","password":"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA"}
`
	cmd := exec.Command(binary, "import", "--from=-", "--data-dir=data")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import: %w\n%s", err, out)
	}
	return nil
}

// unverified are logins where bob's registration waits for his address to be verified.
func unverified() []kind {
	return []kind{
		login("wrong password", "ada@example.com", "wrong horse battery"),
		login("waits, right password", "bob@example.com", password),
		login("waits, wrong password", "bob@example.com", "wrong horse battery"),
		login("disabled, right password", "off@example.com", password),
		login("unknown address", "eve@example.com", "wrong horse battery"),
	}
}

// kind is a request whose answer must not tell whether there is an account. The first of a list is
// what the others are compared with.
type kind struct {
	name, path, subject string
	body                func() map[string]string
}

// login is a kind that tries a password.
func login(name, email, password string) kind {
	return kind{name, "/login", string(auth.Login), func() map[string]string { return map[string]string{"email": email, "password": password} }}
}

// asking are requests for a mail.
func asking[Req, Resp any](path string, op auth.Op[Req, Resp]) (kinds []kind) {
	for _, who := range [][2]string{
		{"has an account", "ada@example.com"}, {"is disabled", "off@example.com"}, {"unknown address", "eve@example.com"}, {"no address at all", "not an address"},
	} {
		kinds = append(kinds, kind{who[0], path, string(op), func() map[string]string { return map[string]string{"email": who[1]} }})
	}
	return kinds
}

// registering are registrations of an address that has an account, of one that waits for its
// mail, and of new ones.
func registering() []kind {
	register := func(name string, email func() string) kind {
		return kind{name, "/register", string(auth.Register), func() map[string]string {
			return map[string]string{"email": email(), "password": password}
		}}
	}
	return []kind{
		register("has an account", func() string { return "ada@example.com" }),
		register("waits for its mail", func() string { return "bob@example.com" }),
		register("new address", func() string { return fmt.Sprintf("%d@example.com", rand.Int64()) }),
	}
}

// failing are the reasons for which a login fails. All but the last three addresses have
// accounts.
func failing() []kind {
	return []kind{
		login("wrong password", "ada@example.com", "wrong horse battery"),
		login("disabled, right password", "off@example.com", password),
		login("disabled, wrong password", "off@example.com", "wrong horse battery"),
		login("over-long password", "ada@example.com", strings.Repeat("x", 2000)),
		login("over-long, unknown", "eve@example.com", strings.Repeat("x", 2000)),
		login("unknown address", "eve@example.com", "wrong horse battery"),
		login("no address at all", "not an address", "wrong horse battery"),
	}
}

// waiting are logins that are limited already.
func waiting() []kind {
	return []kind{
		login("wrong password", "ada@example.com", "wrong horse battery"),
		login("right password", "ada@example.com", password),
		login("disabled", "off@example.com", password),
		login("unknown address", "eve@example.com", "wrong horse battery"),
		login("no address at all", "not an address", "wrong horse battery"),
	}
}

// door sends a login and returns all that the answer tells.
type door func(kind) (answer string, err error)

func compare(ctx context.Context, title string, d *daemon.Daemon, tries int, kinds []kind) error {
	conn, err := bus.Connect(d.NATS)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, side := range []struct {
		name string
		send door
	}{{"over HTTP", overHTTP(ctx, d.HTTP)}, {"over the bus", overBus(conn)}} {
		fmt.Printf("%s, %s, %d tries of each kind\n", title, side.name, tries)
		if err := table(side.send, tries, kinds); err != nil {
			return err
		}
	}
	return nil
}

// people makes the accounts that the kinds are about.
func people(ctx context.Context, d *daemon.Daemon) error {
	conn, err := bus.Connect(d.NATS)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, address := range []string{"ada@example.com", "off@example.com"} {
		reply, err := bus.Call(ctx, conn, auth.Register, auth.RegisterRequest{Email: address, Password: password})
		if err == nil && reply.UserID == 0 {
			err = answerMail(ctx, conn, d)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
	}
	admin, err := as(d, embedded.Admin)
	if err != nil {
		return err
	}
	defer admin.Close()
	off, err := bus.Call(ctx, admin, auth.AdminUsersGet, auth.AdminUsersGetRequest{Email: "off@example.com"})
	if err != nil {
		return err
	}
	_, err = bus.Call(ctx, admin, auth.AdminUsersDisable, auth.AdminUsersDisableRequest{UserID: off.UserID})
	return err
}

// registerWaiting registers bob, who does not answer the mail.
func registerWaiting(ctx context.Context, d *daemon.Daemon) error {
	conn, err := bus.Connect(d.NATS)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = bus.Call(ctx, conn, auth.Register, auth.RegisterRequest{Email: "bob@example.com", Password: password})
	return err
}

// as connects to the bus of an authd in a role.
func as(d *daemon.Daemon, role string) (*nats.Conn, error) {
	key, err := nats.NkeyOptionFromSeed(embedded.SeedFile(filepath.Join(d.Dir, "nats"), role))
	if err != nil {
		return nil, err
	}
	return bus.Connect(d.NATS, key, nats.CustomInboxPrefix("_INBOX_"+role))
}

// answerMail takes the next mail and follows its link.
func answerMail(ctx context.Context, conn *nats.Conn, d *daemon.Daemon) error {
	relay, err := as(d, embedded.Relay) // it may look into streams
	if err != nil {
		return err
	}
	defer relay.Close()
	js, err := jetstream.New(relay)
	if err != nil {
		return err
	}
	var m *jetstream.RawStreamMsg
	for late := time.Now().Add(10 * time.Second); m == nil; time.Sleep(10 * time.Millisecond) {
		if stream, err := js.Stream(ctx, "AUTH_MAIL"); err == nil {
			m, err = stream.GetLastMsgForSubject(ctx, events.MailType)
			if err == nil {
				break
			}
		}
		if time.Now().After(late) {
			return errors.New("no mail")
		}
	}
	var mail events.Mail
	if err := json.Unmarshal(m.Data, &mail); err != nil {
		return err
	}
	_, token, _ := strings.Cut(mail.Link, "#token=")
	token, _, _ = strings.Cut(token, "&")
	_, err = bus.Call(ctx, conn, auth.EmailVerify, auth.EmailVerifyRequest{Token: token, Password: password})
	if errors.Is(err, auth.ErrInvalidToken) { // that was the one before
		return answerMail(ctx, conn, d)
	}
	return err
}

// table sends all kinds interleaved, in a new order each time.
func table(send door, tries int, kinds []kind) error {
	took, answers := make([][]float64, len(kinds)), make([]string, len(kinds))
	for n := range tries + 5 {
		for _, i := range rand.Perm(len(kinds)) {
			began := time.Now()
			answer, err := send(kinds[i])
			if err != nil {
				return fmt.Errorf("%s: %w", kinds[i].name, err)
			}
			if n < 5 { // until connections are open and limits used up
				continue
			}
			took[i] = append(took[i], float64(time.Since(began)))
			answers[i] = answer
		}
	}
	for i, k := range kinds {
		same, p := "the same answer", 1.0
		if answers[i] != answers[0] {
			same = "ANOTHER ANSWER " + answers[i]
		}
		if i > 0 {
			test, err := stats.MannWhitneyUTest(took[0], took[i], stats.LocationDiffers)
			if err != nil {
				return err
			}
			p = test.P
		}
		slices.Sort(took[i])
		fmt.Printf("  %-26s median %9s  p %.3f  %s\n", k.name, time.Duration(took[i][len(took[i])/2]).Round(time.Microsecond), p, same)
	}
	fmt.Println("  answer:", answers[0])
	return nil
}

func overHTTP(ctx context.Context, url string) door {
	client := &http.Client{Timeout: 10 * time.Second}
	return func(k kind) (string, error) {
		body, err := json.Marshal(k.body())
		if err != nil {
			return "", err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+k.path, bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		resp.Header.Del("Date")
		return fmt.Sprint(resp.Status, " ", withoutWait(string(text)), " ", len(resp.Header), " headers"), err
	}
}

func overBus(conn *nats.Conn) door {
	return func(k kind) (string, error) {
		body, err := json.Marshal(k.body())
		if err != nil {
			return "", err
		}
		reply, err := conn.Request(k.subject, body, 10*time.Second)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(withoutWait(string(reply.Data)), " ", len(reply.Header), " headers"), nil
	}
}

// withoutWait leaves out how long to wait, which runs down.
func withoutWait(body string) string {
	before, _, _ := strings.Cut(body, `,"retryAfter"`)
	return before
}
