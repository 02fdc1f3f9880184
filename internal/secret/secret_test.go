package secret_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/zyotra/auth/internal/secret"
)

func parse(t *testing.T, text string) secret.Keys {
	t.Helper()
	keys, err := secret.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestParseRefuses(t *testing.T) {
	good := secret.Generate()
	for name, text := range map[string]string{
		"nothing":        "",
		"not base64":     "hello",
		"short":          base64.StdEncoding.EncodeToString([]byte("0123456789abcdef")),
		"all zero":       base64.StdEncoding.EncodeToString(make([]byte, 32)),
		"repeated":       base64.StdEncoding.EncodeToString([]byte(strings.Repeat("secret!!", 4))),
		"three":          good + "," + secret.Generate() + "," + secret.Generate(),
		"the same twice": good + "," + good,
		"empty second":   good + ",",
	} {
		if _, err := secret.Parse(text); err == nil {
			t.Errorf("%s: accepted", name)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%s: the error tells the secret: %v", name, err)
		}
	}
}

func TestSealIsBoundToKeyAndRow(t *testing.T) {
	oldText, newText := secret.Generate(), secret.Generate()
	old, rotated := parse(t, oldText), parse(t, newText+","+oldText)

	sealed, err := old.Seal([]byte("seed"), "signing_keys/1")
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := rotated.Open(sealed, "signing_keys/1"); err != nil || string(plain) != "seed" {
		t.Errorf("with the second key: %q, %v", plain, err)
	}
	if _, err := old.Open(sealed, "signing_keys/2"); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("in another row: %v", err)
	}
	if _, err := parse(t, newText).Open(sealed, "signing_keys/1"); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("with another key: %v", err)
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := old.Open(sealed, "signing_keys/1"); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("damaged: %v", err)
	}
}

// Counters of attempts are kept under a digest. Instances that list the same secrets in different
// order must find each other's.
func TestSharedSecretsDoNotDependOnTheOrder(t *testing.T) {
	t.Parallel()
	one, two := secret.Generate(), secret.Generate()
	derive := func(text string) string { return string(parse(t, text).DeriveShared(secret.LabelLimits)) }
	if derive(one+","+two) != derive(two+","+one) {
		t.Error("the order matters")
	}
	if both := derive(one + "," + two); both != derive(one) && both != derive(two) {
		t.Error("an instance with one of the secrets has another")
	}
	if derive(one) == derive(two) {
		t.Error("the secret does not matter")
	}
}

func TestLabelsAreIndependent(t *testing.T) {
	k := parse(t, secret.Generate())[0]
	if bytes.Equal(k.Derive(secret.LabelPepper), k.Derive(secret.LabelRefresh)) {
		t.Error("two labels give one secret")
	}
	if !bytes.Equal(k.Derive(secret.LabelPepper), k.Derive(secret.LabelPepper)) {
		t.Error("one label gives two secrets")
	}
}
