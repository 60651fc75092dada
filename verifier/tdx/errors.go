package tdx

import (
	"errors"
	"fmt"
	"time"
)

// A Reason classifies why evidence isn't genuine, or isn't recognised. The
// words are stable: scripts and problem documents carry them.
type Reason string

const (
	// ReasonParse: the quote isn't a well-formed TDX quote of version 4 or 5
	// of the kind that this package verifies.
	ReasonParse Reason = "parse"
	// ReasonCollateral: a component of the collateral is malformed.
	ReasonCollateral Reason = "collateral"
	// ReasonRoot: a chain doesn't end in the trusted root.
	ReasonRoot Reason = "root"
	// ReasonChain: a certificate or CRL isn't what its place in the chain
	// demands (names, constraints, key usage, key type, malformed, not from the
	// certificate authority that the collateral covers).
	ReasonChain Reason = "chain"
	// ReasonSignature: a signature, or a hash that stands for one, doesn't
	// verify: of a certificate, a CRL, TCB info, QE identity, QE report, or
	// quote.
	ReasonSignature Reason = "signature"
	// ReasonExpired: something was no longer valid at the verification time.
	ReasonExpired Reason = "expired"
	// ReasonNotYetValid: something wasn't valid yet at the verification time.
	ReasonNotYetValid Reason = "not-yet-valid"
	// ReasonRevoked: a certificate is on a CRL, or (with StatusRevoked in the
	// error's Status) the platform's TCB level is revoked.
	ReasonRevoked Reason = "revoked"
	// ReasonFMSPC: the collateral is for another FMSPC or PCEID than the
	// quote's platform.
	ReasonFMSPC Reason = "fmspc"
	// ReasonTCB: the TCB info isn't one for TDX that this package understands.
	ReasonTCB Reason = "tcb"
	// ReasonNoLevel: no TCB level of the TCB info covers the platform.
	ReasonNoLevel Reason = "no-level"
	// ReasonModule: the TDX module isn't one that the TCB info recognises.
	ReasonModule Reason = "module"
	// ReasonQE: the quoting enclave isn't the one of the QE identity, or the
	// identity isn't one for the TD quoting enclave.
	ReasonQE Reason = "qe"
)

// An Error says why a quote isn't genuine, or why collateral can't be used.
// All errors of [ParseQuote], [Compile] and [Verifier.Verify] are of this type.
type Error struct {
	Reason Reason

	// Status is StatusRevoked if the platform was recognised and its TCB,
	// TDX module or quoting enclave is revoked; else it is empty.
	Status Status

	// Err says what exactly was wrong. It is a *[StaleError] if Reason is
	// ReasonExpired or ReasonNotYetValid.
	Err error
}

func (e *Error) Error() string { return "tdx: " + string(e.Reason) + ": " + e.Err.Error() }

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// refuse makes an *Error as fmt.Errorf does.
func refuse(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Err: fmt.Errorf(format, args...)}
}

// A StaleError reports something that wasn't valid at the verification time.
type StaleError struct {
	Item         string    // such as "TCB info" or "PCK CRL"
	From, To, At time.Time // valid in [From, To), but needed at At
}

func (e *StaleError) Error() string {
	const layout = "2006-01-02T15:04:05.999Z07:00"
	if e.At.Before(e.From) {
		return fmt.Sprintf("%s isn't valid before %s, but needed at %s", e.Item, e.From.UTC().Format(layout), e.At.UTC().Format(layout))
	}
	return fmt.Sprintf("%s isn't valid after %s, but needed at %s", e.Item, e.To.UTC().Format(layout), e.At.UTC().Format(layout))
}

// reason returns ReasonNotYetValid or ReasonExpired.
func (e *StaleError) reason() Reason {
	if e.At.Before(e.From) {
		return ReasonNotYetValid
	}
	return ReasonExpired
}

// A window is a validity period, [from, to).
type window struct {
	item     string
	from, to time.Time
}

// check returns an *Error that wraps a *StaleError unless w holds at.
func (w *window) check(at time.Time) *Error {
	if !at.Before(w.from) && at.Before(w.to) {
		return nil
	}
	e := &StaleError{Item: w.item, From: w.from, To: w.to, At: at}
	return &Error{Reason: e.reason(), Err: e}
}

// Cause takes the class of an error of this package off its text, which tells people nothing that the text doesn't. It
// returns other errors as they are.
func Cause(err error) error {
	if e := new(Error); errors.As(err, &e) {
		return e.Err
	}
	return err
}
