package handlers

import (
	"strings"

	"github.com/mileusna/useragent"
)

// maxDeviceBytes is the maximum length of the result of device.
const maxDeviceBytes = 128

// device returns a user agent in a form that a person recognises, such as "Firefox 128 on Windows"
// or "Safari 17 on iPhone", or "" if it names neither. The result is for display only: the
// sender chooses the user agent freely.
func device(agent string) string {
	return truncate(nameDevice(agent), maxDeviceBytes)
}

func nameDevice(agent string) string {
	ua := useragent.Parse(agent)
	name := strings.TrimSpace(ua.Name + " " + major(ua.Version))
	on := ua.Device
	if on == "" {
		on = ua.OS
	}
	switch {
	case name == "":
		return on
	case on == "":
		return name
	}
	return name + " on " + on
}

// major returns the major number of a version; the other parts change from week to week.
func major(version string) string {
	number, _, _ := strings.Cut(version, ".")
	return number
}
