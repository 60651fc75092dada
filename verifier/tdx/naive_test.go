package tdx_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// naiveVerify is a second verifier, for tests, written from Intel's rules and not from package tdx: one function from top to
// bottom, offsets by hand, JSON as maps, x509.Verify for chains, statuses as sets of flags, no caches, no sorting. It
// is for quotes and collateral as tdxsim makes them, not for hostile ones, and is to be wrong elsewhere than tdx is.
func naiveVerify(quote []byte, c *tdx.Collateral, rootDER []byte, at time.Time) (r naiveResult, err error) {
	defer func() {
		// Indexing by hand: whatever isn't there is refused.
		if e := recover(); e != nil {
			err = fmt.Errorf("refused: %v", e)
		}
	}()
	must := func(ok bool, what string) {
		if !ok {
			panic(what)
		}
	}
	u16 := func(at int) int { return int(quote[at]) | int(quote[at+1])<<8 }
	u32 := func(at int) int { return u16(at) | u16(at+2)<<16 }

	// The quote.
	must(u16(2) == 2 && u32(4) == 0x81 && hex.EncodeToString(quote[12:28]) == "939a7233f79c4ca9940a0db3957f0607", "header")
	body, bodyLen, relaunchable := 48, 584, false
	switch u16(0) {
	case 4:
	case 5:
		body = 54
		switch {
		case u16(48) == 2 && u32(50) == 584:
		case u16(48) == 3 && u32(50) == 648:
			bodyLen, relaunchable = 648, true
		default:
			panic("body type")
		}
	default:
		panic("version")
	}
	p := body + bodyLen
	must(u32(p) == len(quote)-p-4, "signature data")
	signed, p := quote[:p], p+4
	take := func(n int) []byte { b := quote[p : p+n]; p += n; return b }
	sig, attKey := take(64), take(64)
	must(u16(p) == 6 && u32(p+2) == len(quote)-p-6, "certification data")
	p += 6
	report, reportSig := take(384), take(64)
	auth := take(2 + u16(p))[2:]
	must(u16(p) == 5 && u32(p+2) == len(quote)-p-6, "inner certification data")
	p += 6
	tee := quote[body : body+16]
	mrsignerSEAM, seamAttributes := quote[body+64:body+112], quote[body+112:body+120]

	// Certificates.
	certificates := func(text []byte) (list []*x509.Certificate) {
		for text = bytes.TrimRight(text, "\x00\n"); len(text) > 0; {
			var block *pem.Block
			block, text = pem.Decode(text)
			x, err := x509.ParseCertificate(block.Bytes)
			must(err == nil, "certificate")
			list = append(list, x)
		}
		return list
	}
	root, err := x509.ParseCertificate(rootDER)
	must(err == nil, "root")
	roots := x509.NewCertPool()
	roots.AddCert(root)
	chain := func(list []*x509.Certificate, names ...string) {
		must(len(list) == len(names), "length of chain")
		between := x509.NewCertPool()
		for i, x := range list {
			must(strings.Contains(names[i], x.Subject.CommonName), "name")
			must(!at.Before(x.NotBefore) && !at.After(x.NotAfter), "validity")
			between.AddCert(x)
		}
		must(bytes.Equal(list[len(list)-1].Raw, rootDER), "another root")
		// Extensions that package x509 doesn't know, such as Intel's, aren't critical.
		_, err := list[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		must(err == nil, "chain")
	}
	const cas = "Intel SGX PCK Platform CA|Intel SGX PCK Processor CA"
	pck, crlChain := certificates(quote[p:]), certificates(c.PCKCRLChain)
	tcbChain, qeChain := certificates(c.TCBInfoChain), certificates(c.QEIdentityChain)
	chain(pck, "Intel SGX PCK Certificate", cas, "Intel SGX Root CA")
	chain(crlChain, cas, "Intel SGX Root CA")
	chain(tcbChain, "Intel SGX TCB Signing", "Intel SGX Root CA")
	chain(qeChain, "Intel SGX TCB Signing", "Intel SGX Root CA")
	must(pck[1].Subject.String() == crlChain[0].Subject.String() && pck[1].PublicKey.(*ecdsa.PublicKey).Equal(crlChain[0].PublicKey), "another CA's CRL")

	// Revocation.
	for _, l := range []struct {
		der    []byte
		issuer *x509.Certificate
		of     []*x509.Certificate
	}{{c.RootCRL, root, []*x509.Certificate{pck[1], crlChain[0], tcbChain[0], qeChain[0]}}, {c.PCKCRL, crlChain[0], pck[:1]}} {
		crl, err := x509.ParseRevocationList(l.der)
		must(err == nil && crl.CheckSignatureFrom(l.issuer) == nil, "CRL")
		must(!at.Before(crl.ThisUpdate) && at.Before(crl.NextUpdate), "age of CRL")
		for _, e := range crl.RevokedCertificateEntries {
			for _, x := range l.of {
				must(e.SerialNumber.Cmp(x.SerialNumber) != 0, "revoked certificate")
			}
		}
	}

	// Signatures, with r and s as numbers.
	verify := func(key *ecdsa.PublicKey, message, rs []byte) {
		sum := sha256.Sum256(message)
		must(ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(rs[:32]), new(big.Int).SetBytes(rs[32:])), "signature")
	}
	verify(pck[0].PublicKey.(*ecdsa.PublicKey), report, reportSig)
	att, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, attKey...))
	must(err == nil, "signature")
	verify(att, signed, sig)
	vouched := sha256.Sum256(append(bytes.Clone(attKey), auth...))
	must(bytes.Equal(vouched[:], report[320:352]), "report data")

	// What Intel says, as it serves it: {"NAME":TEXT,"signature":"HEX"}.
	said := func(body []byte, name string, signer *x509.Certificate) map[string]any {
		text, end, ok := strings.Cut(strings.TrimPrefix(string(body), `{"`+name+`":`), `,"signature":"`)
		must(ok, "body")
		rs, err := hex.DecodeString(strings.TrimSuffix(end, `"}`))
		must(err == nil, "signature's digits")
		verify(signer.PublicKey.(*ecdsa.PublicKey), []byte(text), rs)
		var m map[string]any
		must(json.Unmarshal([]byte(text), &m) == nil, "JSON")
		from, err1 := time.Parse(time.RFC3339, m["issueDate"].(string))
		to, err2 := time.Parse(time.RFC3339, m["nextUpdate"].(string))
		must(err1 == nil && err2 == nil && !at.Before(from) && at.Before(to), "age of "+name)
		return m
	}
	tcb, qe := said(c.TCBInfo, "tcbInfo", tcbChain[0]), said(c.QEIdentity, "enclaveIdentity", qeChain[0])
	must(tcb["id"] == "TDX" && tcb["version"] == 3.0 && tcb["tcbType"] == 0.0 && qe["id"] == "TD_QE" && qe["version"] == 2.0, "for something else")
	hexed := func(v any) []byte { b, err := hex.DecodeString(v.(string)); must(err == nil, "hex"); return b }

	// What Intel certified of the platform.
	type element struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	elements := func(der []byte) map[int]asn1.RawValue {
		var list []element
		rest, err := asn1.Unmarshal(der, &list)
		must(err == nil && len(rest) == 0, "extension")
		m := map[int]asn1.RawValue{}
		for _, e := range list {
			m[e.ID[len(e.ID)-1]] = e.Value
		}
		return m
	}
	var sgx map[int]asn1.RawValue
	for _, e := range pck[0].Extensions {
		if e.Id.String() == "1.2.840.113741.1.13.1" {
			sgx = elements(e.Value)
		}
	}
	must(bytes.Equal(sgx[4].Bytes, hexed(tcb["fmspc"])) && bytes.Equal(sgx[3].Bytes, hexed(tcb["pceId"])), "another kind of platform")
	number := func(v asn1.RawValue) (n int) {
		_, err := asn1.Unmarshal(v.FullBytes, &n)
		must(err == nil, "number")
		return n
	}
	components := elements(sgx[2].FullBytes)
	platformSVNs := make([]int, 17) // the last is that of the PCE
	for i := range platformSVNs {
		platformSVNs[i] = number(components[i+1])
	}

	// The TDX module.
	identity := func(version byte) map[string]any {
		for _, m := range orNone(tcb["tdxModuleIdentities"]) {
			if m := m.(map[string]any); strings.EqualFold(m["id"].(string), fmt.Sprintf("TDX_%02X", version)) {
				return m
			}
		}
		panic("no identity of the module")
	}
	module := tcb["tdxModule"].(map[string]any)
	var moduleLevel map[string]any
	if tee[1] > 0 {
		module = identity(tee[1])
		r.module = strings.ToUpper(module["id"].(string))
		moduleLevel = highest(module["tcbLevels"].([]any), int(tee[0]))
	}
	must(bytes.Equal(mrsignerSEAM, hexed(module["mrsigner"])), "module's signer")
	must(bytes.Equal(seamAttributes, make([]byte, 8)) && bytes.Equal(hexed(module["attributes"]), make([]byte, 8)), "module's attributes")

	// The quoting enclave.
	masked := func(have []byte, want, mask string) {
		m := hexed(qe[mask])
		for i, w := range hexed(qe[want]) {
			must(have[i]&m[i] == w, "quoting enclave's "+want)
		}
	}
	masked(report[16:20], "miscselect", "miscselectMask")
	masked(report[48:64], "attributes", "attributesMask")
	must(bytes.Equal(report[128:160], hexed(qe["mrsigner"])), "quoting enclave's signer")
	must(float64(binary.LittleEndian.Uint16(report[256:])) == qe["isvprodid"], "quoting enclave's product")
	r.qeSVN = int(binary.LittleEndian.Uint16(report[258:]))
	qeLevel := highest(qe["tcbLevels"].([]any), r.qeSVN)

	// The platform's level: the greatest of those that it reaches, and of all, in the order of their SVNs.
	svns := func(level any) (s [33]int) { // SGX, PCE, TDX
		t := level.(map[string]any)["tcb"].(map[string]any)
		for i := range 16 {
			s[i] = int(t["sgxtcbcomponents"].([]any)[i].(map[string]any)["svn"].(float64))
			s[17+i] = int(t["tdxtcbcomponents"].([]any)[i].(map[string]any)["svn"].(float64))
		}
		s[16] = int(t["pcesvn"].(float64))
		return s
	}
	all := tcb["tcbLevels"].([]any)
	var onSGX, onTDX, newest any
	for i, level := range all {
		s := svns(level)
		for _, other := range all[:i] {
			must(svns(other) != s, "two levels of the same SVNs")
		}
		above := func(than any) bool {
			if than == nil {
				return true
			}
			o := svns(than)
			return slices.Compare(s[:], o[:]) > 0
		}
		if above(newest) {
			newest = level
		}
		sgxReached, tdxReached := true, true
		for j := range 17 {
			sgxReached = sgxReached && platformSVNs[j] >= s[j]
		}
		for j := range 16 {
			if j < 2 && tee[1] > 0 {
				continue // the module has levels of its own
			}
			tdxReached = tdxReached && int(tee[j]) >= s[17+j]
		}
		if sgxReached && above(onSGX) {
			onSGX = level
		}
		if sgxReached && tdxReached && above(onTDX) {
			onTDX = level
		}
	}
	must(onTDX != nil, "no level of the platform")

	// What follows from all three.
	platform, sgxOnly, moduleFlags, qeFlags := flagsOf(onTDX), flagsOf(onSGX), flags{}, flagsOf(qeLevel)
	if moduleLevel != nil {
		moduleFlags = flagsOf(moduleLevel)
	}
	must(!platform.revoked && !moduleFlags.revoked, "revoked level")
	if !qeFlags.revoked && qeFlags != (flags{}) {
		qeFlags = flags{outOfDate: true} // whatever it is
	}
	status := platform
	if moduleFlags.outOfDate {
		status.outOfDate, status.hardening = true, false
	}
	relaunch := false
	if relaunchable && !qeFlags.outOfDate && !qeFlags.revoked && !sgxOnly.outOfDate && !sgxOnly.revoked && status.outOfDate && moduleFlags.outOfDate {
		now := quote[body+584 : body+600]
		top := svns(newest)
		needed := top[17]
		if now[1] > 0 {
			needed = 0
			for _, l := range identity(now[1])["tcbLevels"].([]any) {
				needed = max(needed, int(l.(map[string]any)["tcb"].(map[string]any)["isvsvn"].(float64)))
			}
		}
		relaunch = int(now[0]) >= needed && int(now[2]) >= top[19]
	}
	must(!qeFlags.revoked, "revoked quoting enclave")
	switch configuration := sgxOnly.configuration || status.configuration; {
	case relaunch && configuration:
		r.status = "TDRelaunchAdvisedConfigurationNeeded"
	case relaunch:
		r.status = "TDRelaunchAdvised"
	default:
		if qeFlags.outOfDate {
			status.outOfDate, status.hardening = true, false
		}
		r.status = status.String()
	}
	for _, part := range []struct {
		source string
		level  any
	}{{"platform", onTDX}, {"module", moduleLevel}, {"qe", qeLevel}} {
		if level, _ := part.level.(map[string]any); level != nil {
			for _, id := range orNone(level["advisoryIDs"]) {
				r.advisories = append(r.advisories, part.source+" "+id.(string))
			}
		}
	}
	r.fmspc, r.ppid = hex.EncodeToString(sgx[4].Bytes), hex.EncodeToString(sgx[1].Bytes)
	return r, nil
}

type naiveResult struct {
	status, fmspc, ppid, module string
	qeSVN                       int
	advisories                  []string
}

func orNone(v any) []any { list, _ := v.([]any); return list }

// highest returns the level with the greatest SVN that svn reaches.
func highest(levels []any, svn int) (best map[string]any) {
	most := -1
	for _, l := range levels {
		n := int(l.(map[string]any)["tcb"].(map[string]any)["isvsvn"].(float64))
		if n <= svn && n > most {
			best, most = l.(map[string]any), n
		}
	}
	if best == nil {
		panic("no level")
	}
	return best
}

// flags are what a status is made of.
type flags struct{ outOfDate, configuration, hardening, revoked bool }

var words = map[string]flags{
	"UpToDate": {}, "SWHardeningNeeded": {hardening: true}, "ConfigurationNeeded": {configuration: true},
	"ConfigurationAndSWHardeningNeeded": {configuration: true, hardening: true}, "OutOfDate": {outOfDate: true},
	"OutOfDateConfigurationNeeded": {outOfDate: true, configuration: true}, "Revoked": {revoked: true},
}

func flagsOf(level any) flags {
	f, ok := words[level.(map[string]any)["tcbStatus"].(string)]
	if !ok {
		panic("unknown status")
	}
	return f
}

func (f flags) String() string {
	for word, g := range words {
		if f == g {
			return word
		}
	}
	panic("no word for a status")
}

// A randomCase is a scenario where everything that the rules look at is near where it makes a difference.
func randomCase(r *rand.Rand) *scenario {
	s := newScenario()
	sometimes := func(n int) bool { return r.IntN(n) == 0 }
	near := func(n int) int { return max(0, n+r.IntN(3)-1) }
	svns := func(from [16]byte) (out [16]byte) {
		out = from
		for range r.IntN(3) {
			i := r.IntN(16)
			out[i] = byte(near(int(out[i])))
		}
		return out
	}
	day := 24 * time.Hour
	s.at = []time.Time{simTime, simTime.Add(time.Hour), simTime.Add(30*day - time.Second), simTime.Add(15 * day)}[r.IntN(4)]
	if sometimes(12) {
		s.at = []time.Time{simTime.Add(-time.Second), simTime.Add(30 * day), simTime.Add(-400 * day), simTime.Add(8 * 365 * day)}[r.IntN(4)]
	}

	// The platform, of one of a few kinds of module.
	tee := svns(tdxsim.DefaultTEETCBSVN)
	tee[1] = byte([]int{0, 1, 1, 1, 2, 3}[r.IntN(6)])
	have := svns(tdxsim.DefaultSVNs)
	pce := uint16(near(int(tdxsim.DefaultPCESVN)))
	s.platform = tdxsim.PlatformOptions{Name: fmt.Sprint(r.IntN(3)), SVNs: &have, PCESVN: &pce, TEETCBSVN: &tee}
	qeSVN := uint16(near(int(tdxsim.DefaultQESVN)))
	s.platform.QE.ISVSVN = &qeSVN
	if sometimes(4) {
		s.platform.CA, s.collateral.CA = tdxsim.ProcessorCA, tdxsim.ProcessorCA
	}
	if sometimes(40) {
		s.platform.CA = tdxsim.ProcessorCA
	}
	if sometimes(40) {
		s.platform.FMSPC = "90c06f000001"
	}
	if sometimes(4) {
		s.collateral.FMSPC = "90c06f000000" // the same in other letters
	}
	if sometimes(40) {
		s.platform.PCEID = "0001"
	}
	if sometimes(40) {
		s.platform.MRSignerSEAM[r.IntN(48)] = 1
	}
	if sometimes(40) {
		s.platform.SEAMAttributes[r.IntN(8)] = 1
	}
	if sometimes(40) {
		s.platform.QE.MRSigner = &[32]byte{1}
	}
	if sometimes(40) {
		s.platform.QE.ISVProdID = new(uint16)
	}
	if sometimes(20) {
		a := tdxsim.DefaultQEAttributes
		a[r.IntN(16)] ^= 1 << r.IntN(8)
		s.platform.QE.Attributes = &a
	}
	if sometimes(40) {
		s.platform.QE.MiscSelect[r.IntN(4)] = 1
	}

	// The collateral.
	pick := func(w ...string) string { return w[r.IntN(len(w))] }
	anyStatus := func() string {
		return pick("UpToDate", "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked")
	}
	advisories := func() (list []string) {
		for range r.IntN(3) {
			list = append(list, fmt.Sprintf("INTEL-SA-%05d", r.IntN(100)))
		}
		return list
	}
	for range 1 + r.IntN(5) {
		l := tdxsim.Level{SGX: svns(tdxsim.DefaultSVNs), TDX: svns(tdxsim.DefaultTEETCBSVN), PCESVN: uint16(near(int(tdxsim.DefaultPCESVN))), Status: anyStatus(), Advisories: advisories()}
		for range r.IntN(4) { // mostly lower, so that something is reached
			i := r.IntN(16)
			l.SGX[i], l.TDX[i] = 0, 0
		}
		if sometimes(2) {
			l.TDX[1] = 0
		}
		s.collateral.Levels = append(s.collateral.Levels, l)
	}
	if sometimes(2) {
		s.collateral.Levels = append(s.collateral.Levels, tdxsim.Level{Status: anyStatus(), Advisories: advisories()})
	}
	isvLevels := func(around int, statuses ...string) (list []tdxsim.ISVLevel) {
		for n := around + 1; n >= max(0, around-2); n-- {
			if sometimes(2) {
				list = append(list, tdxsim.ISVLevel{ISVSVN: uint16(n), Status: pick(statuses...), Advisories: advisories()})
			}
		}
		return append(list, tdxsim.ISVLevel{ISVSVN: uint16(max(0, around-3)), Status: pick(statuses...), Advisories: advisories()})
	}
	s.collateral.Modules = []tdxsim.ModuleIdentity{}
	for _, id := range []string{"TDX_01", "tdx_02"} {
		if !sometimes(8) {
			s.collateral.Modules = append(s.collateral.Modules, tdxsim.ModuleIdentity{ID: id, Levels: isvLevels(5, "UpToDate", "OutOfDate", "OutOfDate", "Revoked")})
		}
	}
	s.collateral.QE.Levels = isvLevels(int(tdxsim.DefaultQESVN), "UpToDate", "UpToDate", "UpToDate", "OutOfDate", "ConfigurationNeeded", "OutOfDateConfigurationNeeded", "Revoked")
	serials := func() []*big.Int {
		list := []*big.Int{big.NewInt(int64(r.IntN(1000)))}
		if sometimes(20) {
			list = append(list, s.pki.NewPlatform(s.platform).PCKSerial())
		}
		if sometimes(60) {
			list = append(list, s.pki.CASerial(tdxsim.PlatformCA))
		}
		if sometimes(60) {
			list = append(list, s.pki.TCBSigningSerial())
		}
		return list
	}
	s.collateral.PCKCRL.Revoked, s.collateral.RootCRL.Revoked = serials(), serials()
	if sometimes(30) {
		s.collateral.ID = "SGX"
	}
	if sometimes(30) {
		s.collateral.QE.ID = "QE"
	}
	if sometimes(30) {
		s.collateral.PCKCRL.NextUpdate = simTime.Add(time.Hour)
	}
	if sometimes(30) {
		s.collateral.QE.Dates.Issue = simTime.Add(time.Hour)
	}

	// The quote.
	svn2 := svns(tdxsim.DefaultTEETCBSVN)
	svn2[1] = byte([]int{0, 1, 1, 2, 3}[r.IntN(5)])
	svn2[0] += byte(r.IntN(3))
	s.quote = [...]tdxsim.QuoteOptions{{}, {Version: 5}, {Version: 5, Body: 3, TEETCBSVN2: &svn2}, {Version: 5, Body: 3, TEETCBSVN2: &svn2}}[r.IntN(4)]
	return s
}

var naiveCases = flag.Int("cases", 200, "how many random cases TestNaive has; the long run has 100000")

// The verifier and the naive one agree on random cases: on what is accepted, and what is said of it. A rule that is changed
// in one of them, an order of levels, a bound of a date, a mask, fails here.
func TestNaive(t *testing.T) {
	n := *naiveCases
	if testing.Short() {
		n = min(n, 50)
	}
	accepted, statuses := 0, map[tdx.Status]int{}
	for i := range n {
		s := randomCase(rand.New(rand.NewPCG(1, uint64(i))))
		raw, err := s.pki.NewPlatform(s.platform).Quote(s.quote)
		if err != nil {
			t.Fatal(i, err)
		}
		c, err := s.pki.Collateral(s.collateral)
		if err != nil {
			t.Fatal(i, err)
		}
		root, err := tdx.ParseRoot(s.pki.Root())
		if err != nil {
			t.Fatal(err)
		}
		got, err := verifyAll(raw, c, root, s.at)
		want, wantErr := naiveVerify(raw, c, s.pki.Root(), s.at)
		if (err == nil) != (wantErr == nil) {
			t.Errorf("case %d: %v, and the naive verifier: %v", i, orNil(err), wantErr)
			continue
		}
		if err != nil {
			continue
		}
		accepted++
		statuses[got.Status]++
		var advisories []string
		for _, a := range got.Advisories {
			advisories = append(advisories, string(a.Source)+" "+a.ID)
		}
		have := naiveResult{string(got.Status), got.FMSPC, got.PPID, got.ModuleID, int(got.QEISVSVN), advisories}
		if fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("case %d: %+v, and the naive verifier: %+v", i, have, want)
		}
	}
	t.Logf("%d cases, %d accepted: %v", n, accepted, statuses)
	if n >= 200 && (accepted < n/10 || accepted > n*9/10 || len(statuses) < 5) {
		t.Errorf("%d of %d cases accepted, statuses %v: the cases test too little", accepted, n, statuses)
	}
}

func orNil(err error) error {
	if err == nil {
		return errors.New("accepted")
	}
	return err
}
