package verifier

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/eventlog"
)

// A profileRule is what a binding profile asks of an entry's evidence, and what it
// says (FORMAT.md, "Binding profiles"). Who signs the envelope follows from
// [record.Profile.InTD].
type profileRule struct {
	// bound checks that the evidence is what the entry says. It gets the entry's
	// quote, which was parsed and not verified yet. The error is a *NotGenuine.
	bound func(e *record.Entry, st *record.Statement, reportData [64]byte) error

	// value and note say what is bound, and not what isn't, in the claim "binding".
	value, note string
	// not is what the hardware doesn't vouch for, for the claim "binding.not".
	not string
	// claims adds what the evidence says beside the quote's other fields.
	claims func(s *subject)
}

// profileRules has the rules of all profiles that have a quote.
var profileRules = map[record.Profile]*profileRule{
	record.ProfileStatement: {
		bound: func(e *record.Entry, _ *record.Statement, reportData [64]byte) error {
			return sameReportData(reportData, e.ReportData(), "the statement calls for")
		},
		value: "the whole statement (statement/v1)",
		note:  "The quote commits to every byte of the statement, and the statement's key signed it. Whether the statement is true depends on the code that made it.",
	},
	record.ProfileAzureParavisor: {
		bound: boundVTPM,
		value: "the whole statement, by a virtual TPM (azure-paravisor/v1)",
		note:  "The virtual TPM's quote commits to every byte of the statement, and the hardware's quote to the virtual TPM's key.",
		not:   "Which code in the guest made the statement: the measurements are the paravisor's, and what it measured of the guest isn't judged here.",
		claims: func(s *subject) {
			q, err := parseVTPM(s.in.Entry.Binding().(*record.VTPMBinding))
			if err != nil {
				return // bound has parsed it
			}
			s.claim("vtpm.key", "Key of the virtual TPM", fmt.Sprintf("RSA modulus with SHA-256 %x", q.key), SourceVerifier, StatusHolds, "The paravisor names it in the data that the quote commits to.")
			s.claim("vtpm.pcrs", "Measurements of the guest (PCRs)", fmt.Sprintf("%s: digest %x", q.selection, q.digest), SourceVendor, StatusUnknown,
				"By the virtual TPM. They weren't compared with anything.")
		},
	},
	record.ProfileDstackProxy: {
		bound: func(e *record.Entry, st *record.Statement, reportData [64]byte) error {
			b := e.Binding().(*record.DstackBinding)
			if err := boundNonce(b, st, reportData); err != nil || st.ModelRun == nil {
				return err
			}
			if ch := st.ModelRun.PeerChannel; b.TLS != nil && ch != (record.Channel{Type: record.ChannelTLSSPKI, SHA256: *b.TLS}) {
				return notGenuine(ReasonBinding, "the quote commits to the TLS key %x, but the statement names the channel %s", *b.TLS, channelText(ch))
			}
			return nil
		},
		value: "a key that signs responses, and a nonce (dstack-proxy/v1)",
		note:  "The quote commits to the key and to the nonce, and to nothing else. It shows that code in the trust domain had this key attested.",
		not:   "The statement: model, number of calls and sessions are the vendor's word. Which responses the key signed, and when: each has to be shown by its own signature.",
		claims: func(s *subject) {
			b := s.in.Entry.Binding().(*record.DstackBinding)
			s.claim("key.responses", "Key that signs responses", responseKey(b), SourceVerifier, StatusHolds, "The quote commits to it. Who else has it, the code decides: dstack derives such keys, and may give one to every instance of an application.")
			if b.TLS != nil {
				s.claim("key.tls", "TLS key of the proxy", fmt.Sprintf("%s %x", record.ChannelTLSSPKI, *b.TLS), SourceVerifier, StatusHolds, "The quote commits to it. Compare it with the key at the other end of your connection.")
			}
			s.nonce(b, b.Nonce[:])
		},
	},
	record.ProfileITANonce: {
		bound: func(e *record.Entry, st *record.Statement, reportData [64]byte) error {
			b := e.Binding().(*record.NonceBinding)
			if err := boundNonce(b, st, reportData); err != nil || st.ModelRun == nil {
				return err
			}
			if sum := sha256.Sum256(b.RuntimeData); sum != st.ModelRun.PeerChannel.SHA256 {
				return notGenuine(ReasonBinding, "the quote commits to runtime data with SHA-256 %x, but the statement names the channel %s", sum, channelText(st.ModelRun.PeerChannel))
			}
			return nil
		},
		value: "a nonce, and data of the attester's (ita-nonce/v1)",
		note:  "The quote commits to both, and to nothing else.",
		not:   "The statement: model, number of calls and sessions are the vendor's word. What was sent or received under a key that the data may hold, and when.",
		claims: func(s *subject) {
			b := s.in.Entry.Binding().(*record.NonceBinding)
			s.claim("runtime-data", "Data that the attester added", fmt.Sprintf("%d bytes, SHA-256 %x", len(b.RuntimeData), sha256.Sum256(b.RuntimeData)), SourceVerifier, StatusHolds, "The quote commits to it. What it means, the attester's code decides.")
			s.nonce(b, b.Value)
			if len(b.IssuedAt) > 0 {
				s.claim("time.issued", "When the verifier issued the nonce", quoted(string(b.IssuedAt)), SourceVendor, StatusAsserted, "Nobody's signature is on it.")
			}
		},
	},
	record.ProfileTLSHPKE: {
		bound: func(*record.Entry, *record.Statement, [64]byte) error { return nil }, // REPORTDATA is the keys
		value: "a TLS key and an HPKE key (tls-hpke/v2)",
		note:  "The quote is made of the two keys, and of nothing else.",
		not:   "When: the quote has no nonce, and may be of any age. What was sent or received under the keys.",
		claims: func(s *subject) {
			r := s.quote.Body.ReportData
			const note = "A field of the quote. Compare it with the key at the other end of your connection."
			s.claim("key.tls", "TLS key", fmt.Sprintf("%s %x", record.ChannelTLSSPKI, r[:32]), SourceHardware, StatusHolds, note)
			s.claim("key.hpke", "HPKE key", fmt.Sprintf("%x", r[32:]), SourceHardware, StatusHolds, note)
		},
	},
	record.ProfileUnbound: {
		bound: func(*record.Entry, *record.Statement, [64]byte) error { return nil },
		value: "not bound (unbound/v1)",
		note:  "The quote commits to nothing in the statement. The vendor says when and where it was collected.",
	},
}

func sameReportData(got, want [64]byte, who string) error {
	if got != want {
		return notGenuine(ReasonBinding, "the quote has REPORTDATA %x, but %s %x", got, who, want)
	}
	return nil
}

// boundNonce checks that REPORTDATA is what the binding says, and that the nonce
// of a model run is the one that its note and session call for.
func boundNonce(b record.Binding, st *record.Statement, reportData [64]byte) error {
	if err := sameReportData(reportData, b.ReportData(), "the binding calls for"); err != nil {
		return err
	}
	if f := st.Freshness(); f != nil && !record.Fresh(b, f.Note) {
		id, _ := b.Session()
		return notGenuine(ReasonBinding, "the nonce isn't %x, which the statement's freshness note and session %s call for", record.Nonce(f.Note, id), id)
	}
	return nil
}

func boundVTPM(e *record.Entry, _ *record.Statement, reportData [64]byte) error {
	b := e.Binding().(*record.VTPMBinding)
	if err := sameReportData(reportData, b.ReportData(), "the paravisor's runtime data calls for"); err != nil {
		return err
	}
	q, err := parseVTPM(b)
	if err != nil {
		return &NotGenuine{Reason: ReasonBinding, Err: err}
	}
	if want := e.ReportData(); string(q.extra) != string(want[:]) {
		return notGenuine(ReasonBinding, "the virtual TPM's quote has the extra data %x, but the statement calls for %x", q.extra, want)
	}
	return nil
}

func responseKey(b *record.DstackBinding) string {
	if b.KeyType == record.KeySecp256k1 {
		return fmt.Sprintf("ecdsa, address 0x%x", b.Key)
	}
	return fmt.Sprintf("%s %x", b.KeyType, b.Key)
}

// nonce claims what an import's nonce shows. A nonce of the statement's freshness
// has been compared with it.
func (s *subject) nonce(b record.Binding, value []byte) {
	const id, label = "nonce", "Nonce of the quote"
	if session, ok := b.Session(); ok {
		s.claim(id, label, fmt.Sprintf("made of the log's checkpoint and session %s", session), SourceVerifier, StatusHolds, "The quote was made after that checkpoint, and for that session.")
		s.claim("time.responses", "When responses were made", "unknown", SourceUnknown, StatusUnknown,
			"The proven time is that of the key's attestation, not of any response: the key may have signed before and after.")
		return
	}
	s.claim(id, label, fmt.Sprintf("%x", value), SourceVerifier, StatusUnknown, "A nonce shows something only to the one who chose it.")
}

// eventLogs replays the event logs that the entry names by digest, and that were
// given.
func (s *subject) eventLogs() {
	if s.quote == nil {
		return
	}
	n := 0
	for _, ev := range s.in.Entry.Evidence {
		ref, err := ev.Ref()
		if err != nil || !eventlog.Is(ref.MediaType) {
			continue
		}
		id, label := "event-log", "Event log"
		if n++; n > 1 {
			id = fmt.Sprintf("event-log.%d", n)
		}
		value := fmt.Sprintf("%s, SHA-256 %x", ref.MediaType, ref.SHA256)
		b, ok := s.in.Evidence[ref.SHA256]
		if !ok {
			s.claim(id, label, value, SourceUnknown, StatusUnknown, "It is named, and wasn't given here. Whoever has it can replay it.")
			continue
		}
		s.eventLog(id, label, value, ref.MediaType, b)
	}
}

// eventLog replays one.
func (s *subject) eventLog(id, label, value, mediaType string, b []byte) {
	failed := func(err error) {
		s.claim(id, label, value, SourceVerifier, StatusFailed, sentence(clean(err.Error())))
		s.refuse(CodeEventLog, "evidence", clean(err.Error()), "an event log that replays to the quote's RTMRs", "the event log isn't that of the quote: %s", clean(err.Error()))
	}
	l, err := eventlog.Parse(mediaType, b)
	if err != nil {
		failed(err)
		return
	}
	var rtmr [eventlog.Registers][]byte
	copy(rtmr[:], s.quote.Body.RTMR[:])
	covers, err := l.Check(rtmr)
	if err != nil {
		failed(err)
		return
	}
	var registers []string
	for i, has := range covers {
		if has {
			registers = append(registers, fmt.Sprintf("RTMR%d", i))
		}
	}
	s.claim(id, label, value, SourceVerifier, StatusHolds, fmt.Sprintf("Its %s to the quote's %s.", plural(uint64(len(l.Events)), "event")+" replay", join(registers, "and")))
	if mediaType != record.MediaTypeDstackLog {
		return
	}
	const note = "Measured into RTMR3 before the application started, if the code measured before it is dstack's."
	for _, e := range []struct{ name, label string }{
		{"app-id", "Application (dstack app id)"}, {"compose-hash", "SHA-256 of app-compose.json"},
		{"os-image-hash", "Operating system image"}, {"key-provider", "Where the application's keys come from"},
	} {
		if v := l.Boot(e.name); v != nil {
			s.claim(id+"."+e.name, e.label, eventText(v), SourceHardware, StatusHolds, note)
		}
	}
	s.compose(l.Boot("compose-hash"))
}

// eventText is the payload of an event for people: text if it is JSON, else
// hexadecimal.
func eventText(b []byte) string {
	if strings.HasPrefix(string(b), "{") && !strings.ContainsFunc(string(b), unprintable) {
		return clean(string(b))
	}
	return clean(fmt.Sprintf("%x", b))
}

// compose compares the application that was measured with the release that an
// import names: its digest is that of app-compose.json.
func (s *subject) compose(hash []byte) {
	env := s.st.Environment()
	if env == nil || s.in.Entry.Profile != record.ProfileDstackProxy {
		return
	}
	const id, label = "event-log.release", "The application that the statement names"
	if string(hash) == string(env.Release.SHA256[:]) {
		s.claim(id, label, "the one that was measured", SourceVerifier, StatusHolds, "")
		return
	}
	s.claim(id, label, "not the one that was measured", SourceVerifier, StatusFailed, "")
	s.refuse(CodeRelease, "environment.release", fmt.Sprintf("%x", env.Release.SHA256), fmt.Sprintf("%x", hash),
		"the statement names an application that isn't the one that was measured")
}
