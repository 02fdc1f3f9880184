package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// onOff parses a switch; otherwise is the result for an empty value.
func onOff(name, value string, otherwise bool) (bool, error) {
	switch value {
	case "on":
		return true, nil
	case "off":
		return false, nil
	case "":
		return otherwise, nil
	}
	return false, &settingError{name, fmt.Sprintf("%q is not on or off", value), "on"}
}

// reason describes the error of a file. It omits the path if the file is absent or access is denied.
func reason(err error) string {
	if os.IsNotExist(err) {
		return "there is no such file"
	}
	if os.IsPermission(err) {
		return "permission denied"
	}
	return err.Error()
}

func integer(name, value string, low, high int, example string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		return 0, &settingError{name, fmt.Sprintf("%q is not a whole number from %d to %d", value, low, high), example}
	}
	return n, nil
}

func duration(name, value string, low, high time.Duration, example string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < low || d > high {
		return 0, &settingError{name, fmt.Sprintf("%q is not a duration from %s to %s", value, low, high), example}
	}
	return d, nil
}

func webURL(name, value, example string) (string, error) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", &settingError{name, fmt.Sprintf("%q is not an http:// or https:// URL without query", value), example}
	}
	return strings.TrimRight(value, "/"), nil
}

// origin returns the origin of a URL as browsers write it (RFC 6454 §6.2): scheme and host in
// lower case, and the port unless it is the scheme's default. CORS_ORIGINS must contain only origins.
func origin(name, value string) (string, error) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || strings.Contains(u.Host, "*") || u.Scheme != "http" && u.Scheme != "https" ||
		name == "CORS_ORIGINS" && u.Scheme+"://"+u.Host != strings.TrimSuffix(value, "/") {
		return "", &settingError{name, fmt.Sprintf("%q is not an origin like https://app.example.com; there are no wildcards", value), "https://app.example.com,https://admin.example.com"}
	}
	host := strings.ToLower(u.Host)
	host = strings.TrimSuffix(host, map[string]string{"http": ":80", "https": ":443"}[u.Scheme])
	return u.Scheme + "://" + host, nil
}

// network parses an address or a network of TRUSTED_PROXIES.
func network(value string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(value); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(value)
	if err != nil || p.Bits() == 0 {
		return netip.Prefix{}, &settingError{"TRUSTED_PROXIES", fmt.Sprintf("%q is not an address or a network, or it is everybody's", value), "10.0.0.0/8,192.0.2.7"}
	}
	return p.Masked(), nil
}

// list parses the values of a comma-separated setting.
func list[T any](text string, read func(string) (T, error)) (values []T, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		value, err := read(part)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}
