// Package pcs gets the collateral that quotes are judged by: from Intel's
// Provisioning Certification Service (PCS), from a caching service (PCCS) in
// front of it, or from a directory. It is the only code that talks to either
// service.
//
// Neither the service nor the network between is trusted: a set is used only
// if it verifies under the root, is in force, and is for what was asked. What
// whoever controls them can do is to withhold news, until the newest set that
// we have expires.
package pcs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Certificate authorities that issue PCK certificates, see [Source].
const (
	PlatformCA  = "platform"
	ProcessorCA = "processor"
)

// A Source gives collateral. Implementations can be used concurrently.
type Source interface {
	// Collateral returns the newest set for platforms of a family (12 hex
	// digits, in any case) whose PCK certificate is of ca, PlatformCA or
	// ProcessorCA, among those that are in force at the time at. That may be
	// years ago, if the source has an archive.
	//
	// The set has been verified under the source's root. It must not be
	// modified. As long as the set is the same, so is the pointer, so that
	// callers can remember what they compiled.
	//
	// The error wraps [ErrNoCollateral] if there is no such set, and
	// [ErrUnreachable] if that isn't known.
	Collateral(ctx context.Context, fmspc, ca string, at time.Time) (*tdx.Collateral, error)
}

var (
	// ErrNoCollateral says that the source has no set for the family, or none
	// that is in force at the time. Asking again soon won't help.
	ErrNoCollateral = errors.New("no collateral")

	// ErrUnreachable says that the service couldn't be asked, or didn't give a
	// usable answer. Asking again may help.
	ErrUnreachable = errors.New("collateral service unreachable")
)

// A key names a kind of platform. The zero value is invalid.
type key struct {
	fmspc string // 12 lowercase hex digits
	ca    string
}

// newKey checks what comes from quotes and file names: a key becomes part of
// paths and URLs.
func newKey(fmspc, ca string) (key, error) {
	if len(fmspc) != 12 {
		return key{}, fmt.Errorf("FMSPC %q is not 12 hex digits", fmspc)
	}
	lower := []byte(fmspc)
	for i, c := range lower {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f':
		case 'A' <= c && c <= 'F':
			lower[i] = c - 'A' + 'a'
		default:
			return key{}, fmt.Errorf("FMSPC %q is not 12 hex digits", fmspc)
		}
	}
	if ca != PlatformCA && ca != ProcessorCA {
		return key{}, fmt.Errorf("PCK CA %q is neither %q nor %q", ca, PlatformCA, ProcessorCA)
	}
	return key{string(lower), ca}, nil
}

func (k key) String() string { return k.fmspc + "-" + k.ca }

// newer reports whether a should be preferred to b where both are in force:
// after a TCB recovery, its number decides, else the date. Dates alone won't
// do, since Intel goes on issuing sets of the previous number for a while.
func newer(a, b *tdx.Set) bool {
	if x, y := a.TCBEvaluationDataNumber(), b.TCBEvaluationDataNumber(); x != y {
		return x > y
	}
	x, _ := a.Window()
	y, _ := b.Window()
	return x.After(y)
}

// rolledBack reports whether next has less news than prev.
func rolledBack(prev, next *tdx.Set) bool {
	return next.TCBEvaluationDataNumber() < prev.TCBEvaluationDataNumber() ||
		next.QEEvaluationDataNumber() < prev.QEEvaluationDataNumber()
}
