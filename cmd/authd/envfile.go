package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"
)

// envFileName is the name of the settings file in the working directory.
const envFileName = ".env"

// byteOrderMark is the prefix that some editors write to files.
var byteOrderMark = []byte("\ufeff")

// loadEnvFile sets the variables of the settings file, if there is one. Variables that are already set
// keep their values.
func loadEnvFile() error {
	variables, err := readEnvFile()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for name, value := range variables {
		if _, isSet := os.LookupEnv(name); isSet {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("%s cannot be read: %w", envFileName, err)
		}
	}
	return nil
}

// readEnvFile returns the variables of the file. Its errors contain no text of the file.
func readEnvFile() (map[string]string, error) {
	content, err := os.ReadFile(envFileName)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%s cannot be read: permission denied", envFileName)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", envFileName, err)
	}
	variables := map[string]string{}
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(content, byteOrderMark)) {
		number++
		name, value, err := parseEnvLine(string(line))
		if err != nil {
			return nil, fmt.Errorf("%s cannot be read: line %d %w", envFileName, number, err)
		}
		if name != "" {
			variables[name] = value
		}
	}
	return variables, nil
}

// variableName matches the name of a variable (POSIX.1-2017 §8.1).
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// parseEnvLine parses a line of the file; name is "" if the line sets no variable. Values are literal:
// nothing in them is expanded. It returns an error for a value that systemd's EnvironmentFile, Docker's
// env_file and shells read differently, such as one with backslashes, unless single quotes enclose it.
func parseEnvLine(line string) (name, value string, err error) {
	if !utf8.ValidString(line) || strings.ContainsRune(line, 0) {
		return "", "", errors.New("is not text in UTF-8: write random bytes in base64")
	}
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' || line[0] == ';' {
		return "", "", nil
	}
	name, value, found := strings.Cut(strings.TrimPrefix(line, "export "), "=")
	name = strings.TrimSpace(name)
	if !found || !variableName.MatchString(name) {
		return "", "", errors.New("must be NAME=value, a comment or empty")
	}
	value = strings.TrimSpace(value)
	if value == "" {
		return name, "", nil
	}
	quote := value[0]
	if quote != '\'' && quote != '"' {
		if strings.Contains(value, `\`) || strings.Contains(value, " #") {
			return "", "", errors.New(`holds a backslash or " #" outside of quotes: put single quotes around the value`)
		}
		return name, value, nil
	}
	inner := value[1:]
	if end := strings.IndexByte(inner, quote); end < 0 || end != len(inner)-1 {
		return "", "", errors.New("must end with the quote that begins its value, and hold it nowhere else")
	}
	inner = inner[:len(inner)-1]
	if quote == '"' && strings.Contains(inner, `\`) {
		return "", "", errors.New("holds a backslash in double quotes: use single quotes")
	}
	return name, inner, nil
}
