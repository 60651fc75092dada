//go:build !unix

package export

import "os"

// lock does nothing: this system has no advisory locks in Go's standard library.
func lock(*os.File) error { return nil }
