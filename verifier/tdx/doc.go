// Package tdx verifies Intel TDX quotes: that genuine hardware, in a known state,
// made them. Quotes and collateral are values, time is an argument, and the rules
// are a pure function:
//
//	c, err := tdx.ParseCollateralJSON(file)    // or filled with what Intel's PCS serves
//	set, err := tdx.Compile(c, tdx.IntelRoot()) // once per set
//	v := tdx.NewVerifier(tdx.IntelRoot(), 4096) // once
//	q, err := tdx.ParseQuote(raw)
//	result, err := v.Verify(q, set, at)
//
// # What is trusted
//
// Intel's root certificate, crypto/ecdsa and crypto/x509, and nothing else: who
// supplies the collateral can make quotes be refused, but not be accepted, other
// than by supplying collateral that was good at the time at. Which time that is, and
// whether newer collateral existed, is for the caller to know. A quote itself holds
// no time.
//
// A quote proves nothing against somebody who has physically extracted the keys of
// a platform. Results name the platform (PPID, PCK serial number, instance id), so
// that a policy can demand known ones.
//
// # Rules
//
// They are those of Intel's Quote Verification Library
// (github.com/intel/SGX-TDX-DCAP-QuoteVerificationLibrary at 7e5b2a1), named in the
// comments by its files, for quotes of version 4, and 5 with bodies of TDX 1.0 and
// 1.5. They are stricter in these points:
//
//   - sizes in a quote must be exact, and nothing may follow;
//   - the certification data must be a PCK certificate chain (type 5);
//   - chains are in Intel's order, with nothing between the certificates, and end in
//     the trusted root itself, not only in one with the same signature;
//   - certificates must be for P-256, signed by ECDSA with SHA-256, with the names,
//     basic constraints, path lengths and key usages of their places, and without
//     unknown critical extensions; so must CRLs;
//   - the SGX extension has each element once, no others, and no SVN out of range;
//   - everything is judged by its beginning too, and is over at nextUpdate, not
//     after it;
//   - TCB info and QE identity are verified and parsed as the exact text that Intel
//     signed, without duplicate members;
//   - the JSON has numbers in range, dates in one form, no empty advisory ids, and no
//     two module identities with one id; advisory ids of the quoting enclave, which
//     Intel's library doesn't read, must be well-formed too.
//
// Members of the signed texts that aren't known are ignored, as Intel does: the
// signature vouches for them, and Intel has added some without a new version.
package tdx
