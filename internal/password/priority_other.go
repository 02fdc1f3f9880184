//go:build !linux

package password

// lowerPriority does nothing where threads have no priorities of their own that Go can reach.
func lowerPriority() {}
