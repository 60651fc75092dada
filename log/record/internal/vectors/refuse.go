package main

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/affidavit-log/affidavit/log/record"
)

// refuseStatements has one row for each way in which a statement can be wrong.
func (g *generator) refuseStatements() {
	const (
		start     = "statements/session-start.json"
		minimal   = "statements/session-start-minimal.json"
		final     = "statements/session.json"
		model     = "statements/model-run.json"
		shared    = "statements/model-run-shared.json"
		release   = "statements/release.json"
		bare      = "statements/release-minimal.json"
		abandoned = "statements/session-abandoned.json"
		vendorKey = "statements/vendor-key.json"
		evidence  = "statements/evidence.json"
		withdrawn = "statements/release-withdrawn.json"
	)
	var edits []edit
	row := func(name, base, old, with, err string) {
		edits = append(edits, edit{Name: name, Base: base, Old: old, New: with, Error: err})
	}
	rowHex := func(name, base, old string, with []byte, err string) {
		edits = append(edits, edit{Name: name, Base: base, Old: old, NewHex: hex.EncodeToString(with), Error: err})
	}
	const kind = `"kind":"coding-session"`
	session := record.NewSessionKey(public(g.session["session key"]))
	gateway := record.NewSessionKey(public(g.session["gateway key"]))

	// JSON.
	row("empty input", start, string(g.payload["session-start"]), "", "unexpected EOF")
	row("truncated", start, `"predicate":`+between(g.payload["session-start"], `"predicate":`, ""), `"predicate":`, "unexpected EOF")
	row("trailing brace", final, `"teardown":{"workspaceErased":true}}}`, `"teardown":{"workspaceErased":true}}}}`, "trailing data")
	row("trailing value", final, `"teardown":{"workspaceErased":true}}}`, `"teardown":{"workspaceErased":true}}} {}`, "trailing data")
	rowHex("trailing zero byte", final, `"teardown":{"workspaceErased":true}}}`, []byte(`"teardown":{"workspaceErased":true}}}`+"\x00"), "trailing data")
	rowHex("byte order mark", start, `{"_type"`, []byte("\xef\xbb\xbf"+`{"_type"`), "invalid character")
	rowHex("UTF-16", start, `{"_type"`, []byte("\xff\xfe"+`{"_type"`), "invalid character")
	rowHex("invalid UTF-8 in a name", start, `"pkg:oci/sandbox"`, []byte("\"pkg:oci/\xff\""), "invalid UTF-8")
	rowHex("invalid UTF-8 in a text", release, "null: not constrained", []byte("null\xc3\x28"), "invalid UTF-8")
	rowHex("UTF-8 of a surrogate", release, "null: not constrained", []byte("null\xed\xa0\x80"), "invalid UTF-8")
	rowHex("overlong UTF-8", release, "null: not constrained", []byte("null\xc0\xaf"), "invalid UTF-8")
	row("comment", start, `{"_type"`, `{/**/"_type"`, "invalid character")
	row("trailing comma", final, `"teardown":{"workspaceErased":true}`, `"teardown":{"workspaceErased":true,}`, "invalid character")
	row("single quotes", start, kind, `"kind":'coding-session'`, "invalid character")
	row("escape sequence in a value", start, kind, `"kind":"coding\u002dsession"`, "escape sequence")
	row("escape sequence in a member name", start, kind, `"k\u0069nd":"coding-session"`, "escape sequence")
	row("escaped slash", start, `"pkg:oci/sandbox"`, `"pkg:oci\/sandbox"`, "escape sequence")
	row("array instead of the statement", start, string(g.payload["session-start"]), "["+string(g.payload["session-start"])+"]", "want an object")
	row("null instead of the statement", start, string(g.payload["session-start"]), "null", "want an object")
	deep := strings.Repeat(`[`, 4000)
	row("deep nesting as a value", start, kind, `"kind":`+deep+strings.Repeat(`]`, 4000), "an array, want a string")
	row("deep nesting as an unknown member", start, kind, kind+`,"x":`+deep+strings.Repeat(`]`, 4000), `unknown member "x"`)
	row("deep nesting of objects", start, kind, `"kind":`+strings.Repeat(`{"kind":`, 1200)+`1`+strings.Repeat(`}`, 1200), "an object, want a string")
	edits = append(edits, edit{Name: "longer than 16 KiB", Base: start, PadTo: record.MaxPayload + 1, Error: "statement of 16385 bytes"})

	// Members.
	row("member missing", start, kind+",", "", `missing member "kind"`)
	row("member missing at the top", start, `"_type":"https://in-toto.io/Statement/v1",`, "", `missing member "_type"`)
	row("predicateType missing", start, `"predicateType":"https://affidavit-log.github.io/session-start/v1",`, "", "predicate without a predicateType")
	row("predicate missing", start, `,"predicate":`+between(g.payload["session-start"], `"predicate":`, "}"), "", `missing member "predicate"`)
	row("member unknown", start, kind, kind+`,"os":"linux"`, `unknown member "os"`)
	row("member unknown at the top", start, `{"_type"`, `{"note":"x","_type"`, `unknown member "note"`)
	row("member name in wrong case", start, `"kind"`, `"Kind"`, `unknown member "Kind"`)
	row("member name in wrong case beside the right one", final, `"execution":"tee"`, `"execution":"unattested","Execution":"tee"`, `unknown member "Execution"`)
	row("member twice", final, `"execution":"tee"`, `"execution":"unattested","execution":"tee"`, `duplicate member "execution"`)
	row("member twice with the same value", start, kind, kind+","+kind, `duplicate member "kind"`)
	row("member twice at the top", start, `{"_type"`, `{"_type":"https://in-toto.io/Statement/v1","_type"`, `duplicate member "_type"`)
	row("predicateType twice", start, `"predicateType":`, `"predicateType":"https://affidavit-log.github.io/session-start/v1","predicateType":`, `duplicate member "predicateType"`)
	row("predicateType twice, the first one wrong", start, `"predicateType":`, `"predicateType":"https://affidavit-log.github.io/session/v1","predicateType":`, `duplicate member "predicateType"`)
	row("member twice in counts", final, `"chat":1`, `"chat":1,"chat":1`, `duplicate member "chat"`)
	row("empty member name", start, kind, kind+`,"":1`, `unknown member ""`)
	row("empty member name in counts", final, `"chat":1`, `"":1`, `empty word`)

	// Null stands for nothing, and only where FORMAT.md says so.
	row("null string", start, kind, `"kind":null`, "null, want a string")
	row("null object", start, `"challenge":{"sha256":"`+hexOf(made("challenge"))+`"}`, `"challenge":null`, "null, want an object")
	row("null list", final, `"basis":["no-persistent-storage","ephemeral-keys","egress-allowlist"]`, `"basis":null`, "null, want an array")
	row("null integer", final, `"sequence":41`, `"sequence":null`, "null, want a number")
	row("null boolean", final, `"workspaceErased":true`, `"workspaceErased":null`, "null, want a boolean")
	row("null digest", start, `"nonexistent`[:0]+`"tenant":"`+hexOf(g.tenant())+`"`, `"tenant":null`, "null, want a string")
	row("null mrtd", release, `"mrtd":"`+strings.Repeat("a1", 48)+`"`, `"mrtd":null`, "null, want a string")
	row("null notBefore", release, `"notBefore":"2026-11-20T00:00:00Z"`, `"notBefore":null`, "null, want a string")
	row("null source", bare, `"version":"1"`, `"version":"1","source":null`, "null, want an object")
	row("null mrOwner registers list", release, `"rtmr":[null,null,null,null]`, `"rtmr":null`, "null, want an array")

	// Integers.
	row("integer below 0", final, `"sequence":41`, `"sequence":-41`, "-41 is not from 1 to")
	row("minus zero", final, `"calls":1`, `"calls":-0`, "-0 is not an integer")
	row("fraction", final, `"calls":1`, `"calls":1.0`, "without fraction")
	row("exponent", final, `"calls":1`, `"calls":1e0`, "without fraction and exponent")
	row("capital exponent", final, `"calls":1`, `"calls":1E3`, "without fraction and exponent")
	row("leading zero", final, `"calls":1`, `"calls":01`, "invalid character")
	row("plus sign", final, `"calls":1`, `"calls":+1`, "invalid character")
	row("hexadecimal integer", final, `"calls":1`, `"calls":0x1`, "invalid character")
	row("integer in quotes", final, `"calls":1`, `"calls":"1"`, "a string, want a number")
	row("2^53 + 1", final, `"calls":1`, `"calls":9007199254740993`, "beyond 2^53")
	row("-2^53 - 1", final, `"calls":1`, `"calls":-9007199254740993`, "beyond 2^53")
	row("2^64 + 1", final, `"calls":1`, `"calls":18446744073709551617`, "beyond 2^53")
	row("sequence 0", final, `"sequence":41`, `"sequence":0`, "0 is not from 1 to")
	row("NaN", final, `"calls":1`, `"calls":NaN`, "invalid character")
	row("agentMeasured false", release, `"agentMeasured":true`, `"agentMeasured":false`, "true or absent")
	row("boolean as a number", final, `"workspaceErased":true`, `"workspaceErased":1`, "a number, want a boolean")
	row("boolean as a string", final, `"workspaceErased":true`, `"workspaceErased":"true"`, "a string, want a boolean")

	// Strings.
	row("empty name", start, `"pkg:oci/sandbox"`, `""`, "empty name")
	row("empty word", final, `"ephemeral-keys"`, `""`, "empty word")
	row("empty text", release, "\"null: not constrained \u2713\"", `""`, "empty text")
	row("empty URI", release, `"git+https://vendor.example/sandbox"`, `""`, "empty URI")
	row("empty vendor id", start, `"https://vendor.example"`, `""`, "does not begin with https://")
	row("empty origin", start, `"origin":"log.example.org/2026"`, `"origin":""`, "origin of 0 bytes")
	row("empty digest", start, `"tenant":"`+hexOf(g.tenant())+`"`, `"tenant":""`, "64 lowercase hexadecimal digits")
	rowHex("newline in a name", start, `"pkg:oci/sandbox"`, []byte("\"pkg:oci/\nsandbox\""), "invalid character")
	rowHex("DEL in a name", start, `"pkg:oci/sandbox"`, []byte("\"pkg:oci/\x7fsandbox\""), `contains "\x7f"`)
	row("control character C1 in a text", release, "\u2713", "\u0085", "U+0085")
	row("bidirectional override in a text", release, "\u2713", "\u202e", "U+202E")
	row("zero width space in a text", release, "\u2713", "\u200b", "U+200B")
	row("line separator in a text", release, "\u2713", "\u2028", "U+2028")
	row("tag character in a text", release, "\u2713", "\U000E0041", "U+E0041")
	row("noncharacter in a text", release, "\u2713", "\U0001FFFE", "U+1FFFE")
	row("letter that isn't ASCII in a name", start, `"pkg:oci/sandbox"`, "\"pkg:oci/s\u0430ndbox\"", "contains")
	row("name that begins with a space", start, `"pkg:oci/sandbox"`, `" pkg:oci/sandbox"`, "begins or ends with a space")
	row("name that ends with a space", start, `"pkg:oci/sandbox"`, `"pkg:oci/sandbox "`, "begins or ends with a space")
	row("name of 256 bytes", start, `"pkg:oci/sandbox"`, `"`+strings.Repeat("a", 256)+`"`, "has 256 bytes")
	row("word of 65 bytes", final, `"ephemeral-keys"`, `"`+strings.Repeat("a", 65)+`"`, "has 65 bytes")
	row("word with a capital letter", final, `"ephemeral-keys"`, `"Ephemeral-keys"`, `contains "E"`)
	row("text of 513 bytes", release, "null: not constrained \u2713", strings.Repeat("a", 513), "text of 513 bytes")
	row("URI of 513 bytes", release, "git+https://vendor.example/sandbox", "x:"+strings.Repeat("a", 511), "has 513 bytes")
	row("URI without a scheme", release, "git+https://vendor.example/sandbox", "//vendor.example", "does not begin with a scheme")
	row("URI with a space", release, "git+https://vendor.example/sandbox", "git:a b", `contains " "`)
	row("media type without a subtype", release, "application/vnd.dev.sigstore.bundle.v0.3+json", "application", "not a type and a subtype")
	row("media type with parameters", release, "application/vnd.dev.sigstore.bundle.v0.3+json", "text/plain; charset=utf-8", `contains ";"`)

	// Digests, keys and base64.
	d := hexOf(made("challenge"))
	row("digest in upper case", start, d, strings.ToUpper(d), "64 lowercase hexadecimal digits")
	row("digest of 31 bytes", start, d, d[2:], "64 lowercase hexadecimal digits")
	row("digest of 33 bytes", start, d, d+"00", "64 lowercase hexadecimal digits")
	row("digest with an odd number of digits", start, d, d[1:], "64 lowercase hexadecimal digits")
	row("digest with a prefix", start, d, "0x"+d[2:], "64 lowercase hexadecimal digits")
	row("digest under another algorithm", start, `"challenge":{"sha256"`, `"challenge":{"sha512"`, `unknown member "sha512"`)
	row("digest under a second algorithm", start, `"challenge":{`, `"challenge":{"sha1":"da39a3ee5e6b4b0d3255bfef95601890afd80709",`, `unknown member "sha1"`)
	row("session id of 15 bytes", start, `"id":"`+sessionHex+`"`, `"id":"`+sessionHex[2:]+`"`, "32 lowercase hexadecimal digits")
	row("session id in upper case", start, `"id":"`+sessionHex+`"`, `"id":"`+strings.ToUpper(sessionHex)+`"`, "32 lowercase hexadecimal digits")
	row("measurement of 47 bytes", release, strings.Repeat("a1", 48), strings.Repeat("a1", 47), "96 lowercase hexadecimal digits")
	row("measurement in upper case", release, strings.Repeat("a1", 48), strings.Repeat("A1", 48), "96 lowercase hexadecimal digits")
	row("git commit of 39 digits", release, strings.Repeat("c2", 20), strings.Repeat("c", 39), "40 or 64 lowercase hexadecimal digits")
	root := b64(digestBytes("root at 73790"))
	row("base64 without padding", start, root, strings.TrimRight(root, "="), "not strict base64")
	row("base64 with spare bits", start, root, spareBits(root), "not strict base64")
	rowHex("base64 with a newline", start, root, []byte(root[:20]+"\n"+root[20:]), "invalid character")
	row("base64 with an escaped newline", start, root, root[:20]+`\n`+root[20:], "escape sequence")
	row("base64 with a space", start, root, root[:20]+" "+root[20:], "not strict base64")
	row("base64 of the URL alphabet", start, root, "-_"+root[2:], "not strict base64")
	row("base64 of 31 bytes", start, root, b64(digestBytes("root at 73790")[1:]), "not strict base64 of 32 bytes")
	row("base64 of 33 bytes", start, root, b64(append(digestBytes("root at 73790"), 0)), "not strict base64 of 32 bytes")
	row("hexadecimal root hash", start, root, hex.EncodeToString(digestBytes("root at 73790")), "not strict base64 of 32 bytes")
	spki := b64(session.SPKI)
	row("public key without padding", start, spki, strings.TrimRight(spki, "="), "not strict base64")
	row("public key with spare bits", start, spki, spareBits(spki), "not strict base64")
	row("public key without SPKI", start, spki, b64(session.PublicKey), "base64 of 32 bytes, want 44")
	row("public key of another algorithm", start, spki, b64(x25519(session.SPKI)), "not an Ed25519 SubjectPublicKeyInfo")
	row("key id of another key", start, session.KeyID, gateway.KeyID, "is not the SHA-256 of publicKey")
	row("key id in upper case", start, session.KeyID, strings.ToUpper(session.KeyID), "64 lowercase hexadecimal digits")

	// Times.
	const started = "2026-11-24T07:00:03Z"
	for _, v := range [][2]string{
		{"time with a fraction", "2026-11-24T07:00:03.0Z"},
		{"time with an offset", "2026-11-24T08:00:03+01:00"},
		{"time with offset zero", "2026-11-24T07:00:03+00:00"},
		{"time without a zone", "2026-11-24T07:00:03"},
		{"time in lower case", "2026-11-24t07:00:03z"},
		{"time with a space", "2026-11-24 07:00:03Z"},
		{"time of February 29 in a common year", "2026-02-29T07:00:03Z"},
		{"time of month 13", "2026-13-24T07:00:03Z"},
		{"time of hour 24", "2026-11-24T24:00:00Z"},
		{"time of a leap second", "2026-12-31T23:59:60Z"},
		{"time of second 60", "2026-11-24T07:00:60Z"},
		{"time of minute 60", "2026-11-24T07:60:03Z"},
		{"time of day 0", "2026-11-00T07:00:03Z"},
		{"time of month 0", "2026-00-24T07:00:03Z"},
		{"time before 1970", "1969-12-31T23:59:59Z"},
		{"time with a sign", "+026-11-24T07:00:03Z"},
		{"date only", "2026-11-24"},
		{"empty time", ""},
	} {
		row(v[0], start, started, v[1], "is not a time like")
	}
	row("POSIX time", start, `"`+started+`"`, "1795503603", "a number, want a string")
	row("month 13", start, `"tenantEpoch":"2026-11"`, `"tenantEpoch":"2026-13"`, "is not a month like")
	row("month of one digit", start, `"tenantEpoch":"2026-11"`, `"tenantEpoch":"2026-1"`, "is not a month like")

	// Words of closed vocabularies, and lists.
	row("unknown statement type", start, "https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1", "is not one of")
	row("unknown predicate type", start, "session-start/v1", "session-start/v2", "unsupported predicate type")
	row("predicate of another type", start, "session-start/v1", "session/v1", "missing member")
	row("unknown kind", start, kind, `"kind":"chat"`, "is not one of")
	row("unknown isolation scope", start, `"isolationScope":"session"`, `"isolationScope":"machine"`, "is not one of")
	row("unknown end reason", final, `"endReason":"completed"`, `"endReason":"success"`, "is not one of")
	row("unknown execution class", final, `"execution":"tee"`, `"execution":"TEE"`, "is not one of")
	row("unknown channel type", start, `"tls_spki_sha256"`, `"ssh_key_sha256"`, "is not one of")
	row("unknown tree scheme", final, `"rfc6962-sha256-salted/v1"`, `"rfc6962-sha256-salted/v2"`, "is not one of")
	row("unknown outcome", final, `"blocked":1`, `"refused":1`, "is not one of")
	row("unknown retention claim", final, `"zero-data-retention"`, `"zero-retention"`, "is not one of")
	row("unknown enforcement", final, `"technical"`, `"strict"`, "is not one of")
	row("unknown storage", start, `"persistentStorage":"none"`, `"persistentStorage":"tmpfs"`, "is not one of")
	row("unknown accelerator", model, `"nvidia-gpu-cc"`, `"gpu"`, "is not one of")
	row("unknown binding", model, `"nonce-chained"`, `"none"`, "is not one of")
	row("unknown TEE", bare, `"intel-tdx"`, `"amd-sev-snp"`, "is not one of")
	row("unknown reason of abandonment", abandoned, `"unused"`, `"deleted"`, "is not one of")
	row("unknown media type of evidence", evidence, `application/vnd.intel.tdx-quote`, `application/vnd.amd.sev-snp-report`, "is not one of")
	channels := between(g.payload["session-start"], `"channels":[`, `]`)
	row("the same channel twice", start, channels, channels+","+channels, "twice")
	row("17 channels", start, channels, manyChannels(17), "more than 16 values")
	row("the same basis twice", final, `"ephemeral-keys"`, `"egress-allowlist"`, `"egress-allowlist" twice`)
	row("17 bases", final, `"no-persistent-storage","ephemeral-keys","egress-allowlist"`, manyWords(17), "more than 16 values")
	models := between(g.payload["session"], `"models":[`, `],"actions"`)
	row("65 models", final, models, strings.TrimSuffix(strings.Repeat(`{"provider":"a","requestModel":"b","calls":0,"execution":"unattested","channel":{"type":"tls_spki_sha256","sha256":"`+d+`"}},`, 65), ","), "more than 64 values")
	row("65 counts", final, `"chat":1,"execute_tool":4`, manyCounts(65), "more than 64 members")
	row("three registers", bare, `"rtmr":[null,null,null,null]`, `"rtmr":[null,null,null]`, "3 values, want at least 4")
	row("five registers", bare, `"rtmr":[null,null,null,null]`, `"rtmr":[null,null,null,null,null]`, "more than 4 values")
	row("no measurements", bare, between(g.payload["release-minimal"], `"measurements":[`, `],"notBefore"`), "", "0 values, want at least 1")
	row("empty accelerators", minimal, `"persistentStorage":"encrypted-ephemeral"`, `"persistentStorage":"encrypted-ephemeral","accelerators":[]`, "0 values, want at least 1")
	row("no accelerator in a set", model, `"count":8`, `"count":0`, "0 is not from 1 to 65535")

	// Between members.
	id, _ := record.ParseSessionID(sessionHex)
	sub := hexOf(id.Digest())
	row("subject of another session", start, sub, d, `subject "session" has the digest`)
	row("subject that is the hash of the raw session id", start, sub, rawIDDigest(id), `subject "session" has the digest`)
	row("subject of another name", start, `"subject":[{"name":"session"`, `"subject":[{"name":"sessions"`, `subject "sessions", want "session"`)
	row("no subject", start, `{"name":"session","digest":{"sha256":"`+sub+`"}}`, "", "0 values, want at least 1")
	second := `{"name":"output-commit","digest":{"sha256":"` + hexOf(made("output commit")) + `"}}`
	row("second subject in a start", start, sub+`"}}]`, sub+`"}},`+second+`]`, "2 subjects, want 1")
	row("second subject of another name", final, `"output-commit"`, `"output"`, `second subject "output"`)
	row("second subject first", final, `{"name":"session","digest":{"sha256":"`+sub+`"}},`+second, second+`,{"name":"session","digest":{"sha256":"`+sub+`"}}`, `second subject "session"`)
	row("three subjects", final, second, second+","+second, "more than 2 values")
	row("size 0 with the root of a tree", start, `"size":73790`, `"size":0`, "checkpoint of size 0")
	row("empty tree of actions with a root", final, `"treeSize":5`, `"treeSize":0`, "tree of size 0")
	row("counts above the tree's size", final, `"execute_tool":4`, `"execute_tool":5`, "actions.counts: sum 6 is more than treeSize 5")
	row("outcomes above the tree's size", final, `"executed":3`, `"executed":4`, "actions.outcomes: sum 6 is more than treeSize 5")
	row("finished before started", final, "2026-11-24T07:02:40Z", "2026-11-24T07:00:02Z", "is before startedOn")
	row("start not below the freshness checkpoint", final, `"index":73811`, `"index":73934`, "is not below the size 73934")
	row("model run of an unattested model", final, `"execution":"tee"`, `"execution":"unattested"`, "a model run, though its execution")
	row("storage missing in a session", start, `"persistentStorage":"none",`, "", `missing member "persistentStorage"`)
	row("calls that differ from the tree", model, `"count":1,"treeSize":1`, `"count":2,"treeSize":1`, "count 2 is not treeSize 1")
	row("empty tree of calls with a root", model, `"count":1,"treeSize":1`, `"count":0,"treeSize":0`, "calls: tree of size 0")
	served := between(g.payload["model-run"], `,"session":`, `,"sessionsServed"`)
	row("session without its key", model, `"sessionKeyid":"`+session.KeyID+`",`, "", "peer.sessionKeyid and session")
	row("key without its session", shared, `"peer":{`, `"peer":{"sessionKeyid":"`+session.KeyID+`",`, "peer.sessionKeyid and session")
	row("many sessions under the subject of one", model, `,"session":`+served, "", `subject "session", want "sessions-served"`)
	row("no session at all", shared, `"sessionsServed":`+between(g.payload["model-run-shared"], `"sessionsServed":`, `"upstream":`), "", "names neither a session nor sessionsServed")
	row("sessionsServed empty", model, `"scheme":"rfc6962-sha256-salted/v1","treeSize":2`, `"scheme":"rfc6962-sha256-salted/v1","treeSize":0`, "sessionsServed is empty")
	row("subject that is not the root of sessionsServed", shared, `"name":"sessions-served","digest":{"sha256":"`+hexOf(g.served.Root)+`"}`, `"name":"sessions-served","digest":{"sha256":"`+d+`"}`, `subject "sessions-served" has the digest`)
	row("upstream model run without TEE", shared, `"execution":"tee"`, `"execution":"unattested"`, "a model run, though its execution")
	row("abandoned with half of the TD's members", abandoned, `,"sessionKey":`+between(g.payload["session-abandoned"], `,"sessionKey":`, `,"freshness"`), "", "either all or none")
	row("release that ends before it begins", bare, "2027-11-20T00:00:00Z", "2026-11-20T00:00:00Z", "is not after notBefore")
	row("source with two digests", release, `"gitCommit":"`, `"sha256":"`+d+`","gitCommit":"`, "want one of gitCommit and sha256")
	row("source without a digest", release, `{"gitCommit":"`+strings.Repeat("c2", 20)+`"}`, `{}`, "want one of gitCommit and sha256")
	row("vendor key under another subject", vendorKey, `"subject":[{"name":"key"`, `"subject":[{"name":"vendor-key"`, `subject "vendor-key", want "key"`)
	row("evidence of size 0", evidence, `"size":632`, `"size":0`, "0 is not from 1")
	row("evidence with another subject", evidence, `"subject":[{"name":"evidence","digest":{"sha256":"`, `"subject":[{"name":"evidence","digest":{"sha256":"00`, "64 lowercase hexadecimal digits")
	row("withdrawal without a reason", withdrawn, `"reason":"the egress filter let DNS through",`, "", `missing member "reason"`)

	g.refused("refuse-statements.json", edits, func(b []byte) error { _, err := record.ParseStatement(b); return err })
}

func (g *generator) tenant() record.Digest {
	return record.TenantPseudonym(keyBytes("a customer's key"), logOrigin, vendorID, "2026-11")
}

func digestBytes(what string) []byte { d := made(what); return d[:] }

func rawIDDigest(id record.SessionID) string {
	return fmt.Sprintf("%x", sha256Sum(id[:]))
}

// spareBits sets a bit of the last character that carries no data.
func spareBits(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	i := len(strings.TrimRight(s, "=")) - 1
	return s[:i] + string(alphabet[strings.IndexByte(alphabet, s[i])|1]) + s[i+1:]
}

// x25519 turns an Ed25519 SPKI into one of the same length for X25519 (RFC 8410).
func x25519(spki []byte) []byte {
	b := append([]byte{}, spki...)
	b[8] = 0x6e
	return b
}

// between returns what is between the first from in b and the next to. An empty to is the end, and
// "}" the last one.
func between(b []byte, from, to string) string {
	_, s, _ := strings.Cut(string(b), from)
	switch to {
	case "":
		return s
	case "}":
		return s[:len(s)-1]
	}
	s, _, _ = strings.Cut(s, to)
	return s
}

func manyChannels(n int) string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf(`{"type":"tls_spki_sha256","sha256":"%064x"}`, i))
	}
	return strings.Join(s, ",")
}

func manyWords(n int) string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf(`"w%d"`, i))
	}
	return strings.Join(s, ",")
}

func manyCounts(n int) string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf(`"w%d":0`, i))
	}
	return strings.Join(s, ",")
}

// refuseBytes has the ways in which entries and leaves can be wrong.
func (g *generator) refuseBytes() {
	if g.err != nil {
		return
	}
	const start, vendor, final, release, imported = "entries/session-start.bin", "entries/vendor-key.bin", "entries/session.bin", "entries/release.bin", "entries/evidence.bin"
	payload := len(g.payload["session-start"])
	// Offsets in entries/session-start.bin.
	profile := 1
	payloadType := profile + 1 + len("statement/v1")
	body := payloadType + 1 + len(record.PayloadType)
	keyid := body + 2 + payload
	signature := keyid + 1 + 64
	evidence := signature + 2 + 64
	hx := func(s string) string { return hex.EncodeToString([]byte(s)) }
	entries := []cut{
		{"empty", start, 0, len(g.entry["session-start"].Bytes()), "", "truncated"},
		{"version 0", start, 0, 1, "00", "unsupported entry version 0"},
		{"version 2", start, 0, 1, "02", "unsupported entry version 2"},
		{"truncated by one byte", start, -2, 1, "", "truncated"},
		{"truncated after the envelope", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "", "truncated"},
		{"trailing byte", start, -1, 0, "00", "trailing data"},
		{"unknown profile", start, profile, 1 + len("statement/v1"), "0c" + hx("statement/v2"), "unsupported profile"},
		{"empty profile", start, profile, 1 + len("statement/v1"), "00", "unsupported profile"},
		{"profile of the vendor", start, profile, 1 + len("statement/v1"), "10" + hx("vendor-signed/v1"), "is not for a statement of type"},
		{"profile for imports", start, profile, 1 + len("statement/v1"), "0a" + hx("unbound/v1"), "is not for a statement of type"},
		{"profile of the TD for a release", release, profile, 1 + len("vendor-signed/v1"), "0c" + hx("statement/v1"), "is not for a statement of type"},
		{"unknown payload type", start, payloadType, 1 + len(record.PayloadType), "10" + hx("application/json"), "payload type"},
		{"empty payload", start, body, 2 + payload, "0000", "empty payload"},
		{"key id of 63 digits", start, keyid, 2, "3f", "64 lowercase hexadecimal digits"},
		{"key id of another key", start, keyid, 1 + 64, "40" + hx(record.KeyID(record.SPKI(public(g.session["gateway key"])))), "is not the statement's sessionKey.keyid"},
		{"key id in upper case", start, keyid, 1 + 64, "40" + hx(strings.ToUpper(g.entry["session-start"].KeyID)), "64 lowercase hexadecimal digits"},
		{"empty key id", start, keyid, 1 + 64, "00", "64 lowercase hexadecimal digits"},
		{"signature of 63 bytes", start, signature, 3, "003f", "signature of 63 bytes"},
		{"no signature", start, signature, 2 + 64, "0000", "signature of 0 bytes"},
		{"no quote", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0000", "needs a TDX quote"},
		{"empty quote", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0003010000", "empty quote"},
		{"two quotes", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0008" + "01000101" + "01000102", "more than one TDX quote"},
		{"evidence of type 200", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0008" + "01000101" + "c8000102", "unsupported evidence type 200"},
		{"a binding that the profile has no place for", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0008" + "01000101" + "03000102", "has no place for"},
		{"evidence of type 0", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0004" + "00000101", "needs a TDX quote"},
		{"evidence that the statement does not name", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0033" + "01000101" + "02002c" + hexOf(made("anything")) + "0000000000000001" + "03" + hx("a/b"), "is not named by the statement"},
		{"evidence twice", final, -1 - digestItemLen, digestItemLen, "", ""}, // completed below
		{"evidence digest before the quote", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0033" + "02002c" + hexOf(made("event log")) + "0000000000000001" + "03" + hx("a/b") + "01000101", "needs a TDX quote as first evidence"},
		{"evidence digest of size 0", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0033" + "01000101" + "02002c" + hexOf(made("event log")) + "0000000000000000" + "03" + hx("a/b"), "evidence of 0 bytes"},
		{"evidence digest with trailing data", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0034" + "01000101" + "02002d" + hexOf(made("event log")) + "0000000000000001" + "03" + hx("a/b") + "00", "trailing data"},
		{"19 evidence items", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, fmt.Sprintf("%04x", 19*4) + strings.Repeat("01000101", 19), "more than 18 evidence items"},
		{"evidence with a length beyond the end", start, evidence, len(g.entry["session-start"].Bytes()) - evidence, "0004" + "01000201", "truncated evidence"},
		{"vendor's entry with a quote", vendor, -3, 2, "0004" + "01000101", "has no evidence"},
		{"vendor key signed by another key", vendor, -1 - 2 - 64 - 2 - 64, 64, hx(record.KeyID(record.SPKI(public(g.session["session key"])))), "is not the statement's key.keyid"},
		{"imported quote with a changed byte", imported, -2, 1, "01", "quote with SHA-256"},
		{"imported quote with a zero byte more", imported, -1 - 632 - 2 - 1 - 2, 2 + 1 + 2 + 632, "027c" + "01" + "0279" + hex.EncodeToString(append(quoteFor([64]byte{1, 2, 3}), 0)), "quote of 633 bytes"},
		{"statement malformed", start, body + 2, 1, "5b", "want an object"},
	}
	item := "02003f" // overwritten with the item's real bytes
	full := g.entry["session"].Bytes()
	item = hex.EncodeToString(full[len(full)-digestItemLen:])
	quoteItem := full[len(full)-digestItemLen-3-632 : len(full)-digestItemLen]
	n := len(quoteItem) + 2*digestItemLen
	for i := range entries {
		if entries[i].Name == "evidence twice" {
			at := len(full) - digestItemLen - len(quoteItem) - 2
			entries[i] = cut{"evidence twice", final, at, len(full) - at, fmt.Sprintf("%04x", n) + hex.EncodeToString(quoteItem) + item + item, "not in ascending order"}
		}
	}
	entries = append(entries, g.refuseBindings()...)
	g.refusedBytes("refuse-entries.json", entries, func(b []byte) error { _, err := record.ParseEntry(b); return err })

	const record1, time1, set1, vendor1 = "leaves/session-start.bin", "leaves/time.bin", "leaves/collateral.bin", "leaves/release.bin"
	const header = 1 + 1 + 1 + 12
	leaves := []cut{
		{"empty", time1, 0, 10 + len(g.note), "", "truncated"},
		{"version 2", time1, 0, 1, "02", "unsupported leaf version 2"},
		{"kind 0", time1, 1, 1, "00", "unsupported leaf kind 0"},
		{"kind 8", time1, 1, 1, "08", "unsupported leaf kind 8"},
		{"kind record-digest", record1, 1, 1, "07", "reserved for a version after leaf version 1"},
		{"another ruleset", record1, 2, 13, "0c" + hx("admission/v2"), "unsupported admission ruleset"},
		{"truncated header", record1, header, len(g.entry["session-start"].Bytes()) + 48, "", "truncated"},
		{"truncated entry", record1, -2, 1, "", "truncated"},
		{"trailing byte", record1, -1, 0, "00", "trailing data"},
		{"admitted after the year 9999", record1, header, 8, "0000e677d21fdc00", "after the year 9999"},
		{"judged at another time", record1, header + 8, 8, "000001a1a2a3a4a5", "though this is no import"},
		{"imported evidence judged at another time", "leaves/evidence.bin", header + 8, 8, "000001a1a2a3a4a5", "is not the collectedOn"},
		{"imported evidence judged after its admission", "leaves/evidence.bin", header, 8, "0000000000000001", "is after admitted-at"},
		{"quote without collateral", record1, header + 16, 32, strings.Repeat("00", 32), "though the entry has a quote: true"},
		{"collateral without a quote", "leaves/session-abandoned-vendor.bin", header + 16, 32, strings.Repeat("01", 32), "though the entry has a quote: false"},
		{"release in a record leaf", record1, header + 16 + 32, len(g.entry["session-start"].Bytes()), hex.EncodeToString(g.entry["release"].Bytes()), "belongs into a release leaf"},
		{"session in a release leaf", vendor1, 10, len(g.entry["release"].Bytes()), hex.EncodeToString(g.entry["session-start"].Bytes()), "entry of type"},
		{"vendor key in a release leaf", vendor1, 10, len(g.entry["release"].Bytes()), hex.EncodeToString(g.entry["vendor-key"].Bytes()), "entry of type"},
		{"time without a note", time1, 10, len(g.note), "", "empty note"},
		{"time logged after the year 9999", time1, 2, 8, "ffffffffffffffff", "after the year 9999"},
		{"collateral of another TEE", set1, 2, 1, "02", "unsupported TEE 2"},
		{"collateral of six components", set1, 3, 2 + 32, "00c0", "6 component digests, want 7"},
		{"collateral of eight components", set1, 3, 2, "0100" + strings.Repeat("00", 32), "more than 7 component digests"},
		{"collateral with a trailing byte", set1, -1, 0, "00", "trailing data"},
		{"collateral with half a digest", set1, 3, 2 + 1, "00df", "6 component digests, want 7"},
	}
	g.refusedBytes("refuse-leaves.json", leaves, func(b []byte) error { _, err := record.ParseLeaf(b); return err })
}

// digestItemLen is the length of the evidence digest at the end of entries/session.bin.
const digestItemLen = 3 + 32 + 8 + 1 + len("application/vnd.tcg.ccel")

// refuseOthers has the ways in which entries in JSON, disclosures and actions can be wrong.
func (g *generator) refuseOthers() {
	if g.err != nil {
		return
	}
	e := g.entry["session"]
	const entry, file = "entries/session.json", "disclosures/action-3.json"
	sig, payload := b64(e.Signature), b64(e.Payload)
	edits := func(base string, rows ...[4]string) (out []edit) {
		for _, r := range rows {
			out = append(out, edit{Name: r[0], Base: base, Old: r[1], New: r[2], Error: r[3]})
		}
		return out
	}
	g.refused("refuse-entries-json.json", edits(entry,
		[4]string{"two signatures", `"signatures":[`, `"signatures":[{"keyid":"` + e.KeyID + `","sig":"` + sig + `"},`, "more than 1 values"},
		[4]string{"no signature", `"signatures":[{"keyid":"` + e.KeyID + `","sig":"` + sig + `"}]`, `"signatures":[]`, "0 values, want at least 1"},
		[4]string{"signature without a key id", `"keyid":"` + e.KeyID + `",`, "", `missing member "keyid"`},
		[4]string{"signature of 63 bytes", sig, b64(e.Signature[1:]), "base64 of 63 bytes"},
		[4]string{"signature with spare bits", sig, spareBits(sig), "not strict base64"},
		[4]string{"payload of the URL alphabet", payload, strings.NewReplacer("+", "-", "/", "_").Replace(payload[:len(payload)-4]) + "-_-_", "not strict base64"},
		[4]string{"payload without padding", payload, strings.TrimRight(b64(append([]byte(" "), e.Payload...)), "="), "not strict base64"},
		[4]string{"payload with an escaped newline", payload, payload[:64] + `\n` + payload[64:], "escape sequence"},
		[4]string{"empty payload", payload, "", "base64 of 0 bytes"},
		[4]string{"payload in JSON", `"` + payload + `"`, `{}`, "an object, want a string"},
		[4]string{"member in wrong case", `"payloadType"`, `"PayloadType"`, "unknown member"},
		[4]string{"member twice", `{"profile":"statement/v1"`, `{"profile":"statement/v1","profile":"statement/v1"`, "duplicate member"},
		[4]string{"null evidence", `"evidence":[`, `"evidence":null,"x":[`, "null, want an array"},
		[4]string{"unknown profile", `"statement/v1"`, `"statement/v2"`, "unsupported profile"},
		[4]string{"unknown evidence type", `"tdx-quote"`, `"sgx-quote"`, "is not one of"},
		[4]string{"quote with a media type", `"type":"tdx-quote",`, `"type":"tdx-quote","mediaType":"a/b",`, "needs data and nothing else"},
		[4]string{"digest with data", `"type":"digest",`, `"type":"digest","data":"AA==",`, "needs sha256, size and mediaType"},
		[4]string{"digest without size", `,"size":50113`, "", "needs sha256, size and mediaType"},
		[4]string{"digest without sha256", `"sha256":"` + hexOf(made("event log")) + `",`, "", "needs sha256, size and mediaType"},
		[4]string{"envelope with another member", `"envelope":{`, `"envelope":{"payloadHash":"x",`, "unknown member"},
		[4]string{"trailing data", `"mediaType":"application/vnd.tcg.ccel"}]}`, `"mediaType":"application/vnd.tcg.ccel"}]}]`, "trailing data"},
	), func(b []byte) error { _, err := record.ParseEntryJSON(b); return err })

	doc := []byte(g.index.ActionTree.Leaves[3].Document)
	salt := b64(digestBytes("salt 3 of actions"))
	docWith := func(old, with string) string {
		if strings.Count(string(doc), old) != 1 {
			panic(old)
		}
		return b64([]byte(strings.Replace(string(doc), old, with, 1)))
	}
	bytesMember := `"bytes":"` + b64(doc) + `"`
	inBytes := func(old, with string) string { return `"bytes":"` + docWith(old, with) + `"` }
	g.refused("refuse-disclosures.json", edits(file,
		[4]string{"copy that says something else", `{"action":{"arguments"`, `{"action":{"result":{"sha256":"` + hexOf(made("x")) + `"},"arguments"`, "something else than disclosure.bytes"},
		[4]string{"salt of 31 bytes", salt, b64(digestBytes("salt 3 of actions")[1:]), "not strict base64 of 32 bytes"},
		[4]string{"salt with spare bits", salt, spareBits(salt), "not strict base64 of 32 bytes"},
		[4]string{"bytes with an escaped newline", bytesMember, `"bytes":"` + b64(doc)[:64] + `\n` + b64(doc)[64:] + `"`, "newline in base64"},
		[4]string{"no salt", `"salt":"` + salt + `",`, "", `missing member "salt"`},
		[4]string{"index of another action", `"index":3,"rootHash"`, `"index":2,"rootHash"`, "but the document's index is 3"},
		[4]string{"index beyond the tree", `"treeSize":5`, `"treeSize":3`, "is not below treeSize 3"},
		[4]string{"tree of size 0", `"treeSize":5`, `"treeSize":0`, "0 is not from 1"},
		[4]string{"null path", `"inclusionPath":[`, `"inclusionPath":null,"x":[`, "null, want an array"},
		[4]string{"unknown member", `"disclosure":{`, `"disclosure":{"x":1,`, "unknown member"},
		[4]string{"bytes that are no document", bytesMember, `"bytes":"e30="`, "disclosure.bytes"},
		[4]string{"document with a member twice", bytesMember, inBytes(`"index":3`, `"index":3,"index":3`), "duplicate member"},
		[4]string{"document with an attribute twice", bytesMember, inBytes(`"error.type":"egress_denied"`, `"error.type":"egress_denied","error.type":"x"`), "duplicate member"},
		[4]string{"document with an attribute twice, once escaped", bytesMember, inBytes(`"error.type":"egress_denied"`, `"error.type":"egress_denied","error\u002etype":"x"`), "duplicate member"},
		[4]string{"document without an operation name", bytesMember, inBytes(`"gen_ai.operation.name"`, `"gen_ai.operation"`), "missing string gen_ai.operation.name"},
		[4]string{"document of another conversation", bytesMember, inBytes(`"error.type":"egress_denied"`, `"gen_ai.conversation.id":"x"`), "is not the session"},
		[4]string{"document with a floating-point attribute", bytesMember, inBytes(`"error.type":"egress_denied"`, `"gen_ai.request.temperature":0.5`), "without fraction"},
		[4]string{"document with a null attribute", bytesMember, inBytes(`"error.type":"egress_denied"`, `"error.type":null`), "null, want a string"},
		[4]string{"document with an object as attribute", bytesMember, inBytes(`"error.type":"egress_denied"`, `"error.type":{}`), "an object, want a string"},
		[4]string{"document with an attribute name in upper case", bytesMember, inBytes(`"error.type"`, `"error.Type"`), "words in lower case"},
		[4]string{"document with a trace id in upper case", bytesMember, inBytes(`"traceId":"`, `"traceId":"A`), "32 lowercase hexadecimal digits"},
		[4]string{"document with a span id of zeros", bytesMember, inBytes(`"spanId":"`+spanOf(doc)+`"`, `"spanId":"0000000000000000"`), "an id of zeros"},
		[4]string{"document with a trace id of zeros", bytesMember, inBytes(`"traceId":"`+between(doc, `"traceId":"`, `"`)+`"`, `"traceId":"`+strings.Repeat("0", 32)+`"`), "an id of zeros"},
		[4]string{"document with an unknown outcome", bytesMember, inBytes(`"outcome":"blocked"`, `"outcome":"ok"`), "is not one of"},
		[4]string{"document with half a surrogate pair", bytesMember, inBytes(`"error.type":"egress_denied"`, `"error.type":"\ud800"`), "surrogate"},
		[4]string{"document with trailing data", bytesMember, `"bytes":"` + b64(append(append([]byte{}, doc...), '1')) + `"`, "trailing data"},
	), func(b []byte) error { _, err := record.ParseDisclosure(b); return err })
}

func spanOf(doc []byte) string { return between(doc, `"spanId":"`, `"`) }

// refuseBindings has one row for each way in which the evidence of an import's
// profile can be wrong.
func (g *generator) refuseBindings() (cuts []cut) {
	// evidence replaces all evidence of an entry by that which edit makes of it.
	evidence := func(name, base, err string, edit func(ev []record.Evidence) []record.Evidence) {
		e := g.entry[base]
		size := 0
		for _, ev := range e.Evidence {
			size += 3 + len(ev.Data)
		}
		var with []byte
		for _, ev := range edit(slices.Clone(e.Evidence)) {
			with = append(with, byte(ev.Type), byte(len(ev.Data)>>8), byte(len(ev.Data)))
			with = append(with, ev.Data...)
		}
		with = append([]byte{byte(len(with) >> 8), byte(len(with))}, with...)
		cuts = append(cuts, cut{name, "entries/" + strings.ReplaceAll(base, "@", "-") + ".bin", len(e.Bytes()) - size - 2, size + 2, hex.EncodeToString(with), err})
	}
	data := func(edit func(b []byte) []byte) func([]record.Evidence) []record.Evidence {
		return func(ev []record.Evidence) []record.Evidence {
			ev[1].Data = edit(slices.Clone(ev[1].Data))
			return ev
		}
	}
	bound := func(b record.Binding) func([]record.Evidence) []record.Evidence {
		return data(func([]byte) []byte { return record.NewBindingEvidence(b).Data })
	}
	id, _ := record.ParseSessionID(sessionHex)
	key := made("an address")
	evidence("dstack without a binding", "evidence-dstack", "needs a binding", func(ev []record.Evidence) []record.Evidence { return slices.Delete(ev, 1, 2) })
	evidence("dstack with two bindings", "evidence-dstack", "has no place for", func(ev []record.Evidence) []record.Evidence { return slices.Insert(ev, 1, ev[1]) })
	evidence("dstack with a binding after the digest", "evidence-dstack", "needs a binding", func(ev []record.Evidence) []record.Evidence {
		return []record.Evidence{ev[0], ev[2], ev[1]}
	})
	evidence("dstack with an empty binding", "evidence-dstack", "truncated", data(func([]byte) []byte { return nil }))
	evidence("dstack with a truncated binding", "evidence-dstack", "trailing data", data(func(b []byte) []byte { return b[:len(b)-1] }))
	evidence("dstack with trailing data in the binding", "evidence-dstack", "trailing data", data(func(b []byte) []byte { return append(b, 0) }))
	evidence("dstack with a key of type 3", "evidence-dstack", "key type 3", data(func(b []byte) []byte { b[0] = 3; return b }))
	evidence("dstack with an ECDSA key of 32 bytes", "evidence-dstack", "key type ecdsa with 32 bytes", data(func(b []byte) []byte { b[0] = 1; return b }))
	evidence("dstack with a fingerprint of 31 bytes", "evidence-dstack", "TLS fingerprint of 31 bytes", data(func(b []byte) []byte {
		b[1+1+32] = 31
		return slices.Insert(b, 1+1+32+1, make([]byte, 31)...)
	}))
	evidence("dstack evidence that names a session", "evidence-dstack", "has no freshness",
		bound(&record.DstackBinding{KeyType: record.KeyEd25519, Key: key[:], For: &id}))
	evidence("dstack model run that names no session", "model-run-dstack", "names no session",
		bound(&record.DstackBinding{KeyType: record.KeyEd25519, Key: key[:]}))
	evidence("dstack model run that names another session", "model-run-dstack", "the binding names session",
		bound(&record.DstackBinding{KeyType: record.KeyEd25519, Key: key[:], For: &record.SessionID{1}}))
	evidence("dstack model run with a digest that it doesn't name", "model-run-dstack", "is not named by the statement", func(ev []record.Evidence) []record.Evidence {
		return append(ev[:2], record.NewDigestEvidence(record.EvidenceRef{SHA256: made("anything"), Size: 1, MediaType: "a/b"}))
	})
	evidence("import with five digests", "evidence-ita", "is not named by the statement", func(ev []record.Evidence) []record.Evidence {
		ev = ev[:2]
		for i := range 5 {
			ev = append(ev, record.NewDigestEvidence(record.EvidenceRef{SHA256: record.Digest{byte(i)}, Size: 1, MediaType: "a/b"}))
		}
		return ev
	})
	evidence("unbound evidence with a digest", "evidence", "is not named by the statement", func(ev []record.Evidence) []record.Evidence {
		return append(ev, record.NewDigestEvidence(record.EvidenceRef{Size: 1, MediaType: "a/b"}))
	})
	evidence("TLS and HPKE with a binding", "evidence-tls-hpke", "has no place for", func(ev []record.Evidence) []record.Evidence {
		return append(ev, record.Evidence{Type: record.EvidenceBinding, Data: []byte{0}})
	})
	evidence("TLS and HPKE of another quote", "evidence-tls-hpke", "quote with SHA-256", func(ev []record.Evidence) []record.Evidence {
		return []record.Evidence{record.NewQuoteEvidence(quoteFor([64]byte{1}))}
	})
	evidence("verifier's nonce of 0 bytes", "evidence-ita", "nonce of 0 bytes", bound(&record.NonceBinding{RuntimeData: []byte("x")}))
	evidence("verifier's nonce of 129 bytes", "evidence-ita", "nonce of 129 bytes", bound(&record.NonceBinding{Value: make([]byte, 129)}))
	evidence("issued at of 65 bytes", "evidence-ita", "issued at of 65", bound(&record.NonceBinding{Value: []byte{1}, IssuedAt: make([]byte, 65)}))
	evidence("runtime data of 16,385 bytes", "evidence-ita", "runtime data of 16385", bound(&record.NonceBinding{Value: []byte{1}, RuntimeData: make([]byte, 16385)}))
	evidence("session id of 15 bytes", "evidence-ita", "not 16 bytes", data(func(b []byte) []byte {
		b[len(b)-1] = 15
		return append(b, make([]byte, 15)...)
	}))
	evidence("virtual TPM without a signature", "session-start@azure", "signature of 0", bound(&record.VTPMBinding{RuntimeData: []byte{1}, Quoted: []byte{1}}))
	evidence("virtual TPM's quote of 1,025 bytes", "session-start@azure", "TPM quote of 1025", bound(&record.VTPMBinding{RuntimeData: []byte{1}, Quoted: make([]byte, 1025), Signature: []byte{1}}))
	evidence("virtual TPM without a binding", "session-start@azure", "needs a binding", func(ev []record.Evidence) []record.Evidence { return ev[:1] })
	return cuts
}
