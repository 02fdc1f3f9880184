// Package faults_test runs one or two instances of authd while processes, databases, buses and
// networks fail: no acknowledged change is lost, and no wrong answer is given.
//
//	chaos_test.go      random faults, after which events are compared with tables
//	faults_test.go     signals, draining and readiness
//	strangers_test.go  a server of the bus that lets in strangers
package faults_test
