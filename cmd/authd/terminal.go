package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/zyotra/auth"
)

// terminal prompts the user who started the command. Prompts go to standard error, so that
// they do not mix with piped output.
type terminal struct {
	in  *os.File
	out io.Writer
}

func (t terminal) isThere() bool { return term.IsTerminal(int(t.in.Fd())) }

// confirm asks a question, and reports whether the answer is "y" or "yes".
func (t terminal) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprintf(t.out, "%s [y/N] ", question)
	text, err := t.await(ctx, func() (string, error) { return bufio.NewReader(t.in).ReadString('\n') })
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

// password prompts twice for a new password, without showing it.
func (t terminal) password(ctx context.Context) (string, error) {
	first, err := t.hidden(ctx, "New password: ")
	if err != nil {
		return "", err
	}
	second, err := t.hidden(ctx, "Once more: ")
	if err == nil && first != second {
		err = errors.New("the two are not the same: nothing was changed")
	}
	if err != nil {
		return "", err
	}
	return first, nil
}

func (t terminal) hidden(ctx context.Context, question string) (string, error) {
	shown, err := term.GetState(int(t.in.Fd()))
	if err != nil {
		return "", err
	}
	// The read continues after ctx ends, so the state of the terminal is restored here.
	defer func() { _ = term.Restore(int(t.in.Fd()), shown) }()
	fmt.Fprint(t.out, question)
	defer fmt.Fprintln(t.out)
	return t.await(ctx, func() (string, error) {
		text, err := term.ReadPassword(int(t.in.Fd()))
		return string(text), err
	})
}

// await returns the result of read, or an error when ctx ends. A read of a terminal cannot be
// interrupted, so its goroutine may remain: the process ends soon afterwards.
func (t terminal) await(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		text, err := read()
		done <- answer{text, err}
	}()
	select {
	case a := <-done:
		return a.text, a.err
	case <-ctx.Done():
		return "", errors.New("interrupted: nothing was changed")
	}
}

// piped reads a password from standard input, up to auth.MaxRequestBytes, without one line break at its
// end.
func (t terminal) piped() (string, error) {
	text, err := io.ReadAll(io.LimitReader(t.in, auth.MaxRequestBytes))
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
}
