package handlers

import (
	"strings"

	"github.com/mileusna/useragent"
)

// maxDeviceBytes is the length of what device returns.
const maxDeviceBytes = 128

// device reads a user agent into what a person recognises, as in "Firefox 128 on Windows"
// or "Safari 17 on iPhone", and "" if it names nothing. It is for eyes alone: a user
// agent is whatever its sender says.
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

// major is a version without what changes from week to week.
func major(version string) string {
	number, _, _ := strings.Cut(version, ".")
	return number
}
