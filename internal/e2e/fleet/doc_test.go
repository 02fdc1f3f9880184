// Package fleet_test runs replicas of authd on one Postgres and a NATS cluster of three while
// their parts fail, and two releases beside each other. The tests have the machine to themselves:
// a request may not miss its answer because another test keeps the machine busy.
//
//	fleet_test.go    the replicas
//	callers_test.go  users, who check every answer
//	faults_test.go   the faults
//	skew_test.go     two releases
package fleet_test
