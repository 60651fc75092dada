package tdx

const hexDigits = "0123456789ABCDEF"

// moduleID returns the id of the identity of TDX modules of that version.
func moduleID(version uint8) string {
	return string([]byte{'T', 'D', 'X', '_', hexDigits[version>>4], hexDigits[version&15]})
}

// levels are the TCB levels that a platform reached, and what follows.
type levels struct {
	status   Status
	sgx, tdx *tcbLevel
	module   *isvLevel // nil if the module has version 0
}

// judge finds the TCB levels of the platform, and merges the statuses of its
// parts (checkTcbLevel in Intel's TcbLevelCheck.cpp), in this order:
//
//  1. the status of the platform's TDX level, merged with that of the module;
//     if that makes it revoked, this is the end;
//  2. with a body of TDX 1.5, whether relaunching the TD would help;
//  3. merged with the status of the quoting enclave.
func judge(q *Quote, p *platform, t *tcbInfo, module *moduleIdentity, qe *isvLevel) (l levels, err error) {
	d := &q.Body
	if l.sgx, l.tdx = t.match(p.ext, d.TEETCBSVN); l.sgx == nil || l.tdx == nil {
		return l, refuse(ReasonNoLevel, "no TCB level for SGX components %x, PCESVN %d and TDX components %x",
			p.ext.components, p.ext.pcesvn, d.TEETCBSVN)
	}

	// checkTdxModuleTcbStatus in TdxModuleCheck.cpp: a module of version 0 is
	// as good as up to date, since its SVN is among the TDX components.
	moduleStatus := StatusUpToDate
	if module != nil {
		if l.module = module.match(d.TEETCBSVN[0]); l.module == nil {
			return l, refuse(ReasonModule, "no TCB level for TDX module %s with ISVSVN %d", module.id, d.TEETCBSVN[0])
		}
		moduleStatus = l.module.component.Status
		if !moduleStatus.validModule() {
			return l, refuse(ReasonModule, "unknown status %q of TDX module %s", moduleStatus, module.id)
		}
	}

	// EnclaveReportVerifier.cpp: of a quoting enclave, whatever is neither up to
	// date nor revoked counts as out of date.
	qeStatus := qe.component.Status
	if qeStatus != StatusUpToDate && qeStatus != StatusRevoked {
		qeStatus = StatusOutOfDate
	}

	l.status = merge(l.tdx.component.Status, moduleStatus)
	if l.status == StatusRevoked {
		if moduleStatus == StatusRevoked {
			return l, revoked("TDX module " + module.id)
		}
		return l, revoked("TCB level of the platform")
	}
	if q.BodyType == BodyTDX15 {
		if l.status, err = relaunch(d.TEETCBSVN2, t, l.sgx.component.Status, l.status, moduleStatus, qeStatus); err != nil {
			return l, err
		}
	}
	if l.status = merge(l.status, qeStatus); l.status == StatusRevoked {
		return l, revoked("quoting enclave")
	}
	return l, nil
}

// revoked returns the error for a part of the platform that is revoked.
func revoked(part string) *Error {
	e := refuse(ReasonRevoked, "%s is revoked", part)
	e.Status = StatusRevoked
	return e
}

// match returns the first level whose SGX components and PCESVN the platform
// reaches, and the first that also has TDX components that teeTCBSVN reaches;
// nil if there is none (matchTcbLevels in TcbLevelCheck.cpp). Every component must
// be reached. If the module has a version, TDX components 0 and 1, which are the
// module's SVN and version, are left to the module's identity.
func (t *tcbInfo) match(e *pckExtension, teeTCBSVN []byte) (sgx, tdx *tcbLevel) {
	skip := 0
	if teeTCBSVN[1] > 0 {
		skip = 2
	}
	for i := range t.levels {
		l := &t.levels[i]
		if !reaches(e.components[:], l.sgx[:]) || e.pcesvn < l.pcesvn {
			continue
		}
		if sgx == nil {
			sgx = l
		}
		if reaches(teeTCBSVN[skip:], l.tdx[skip:]) {
			return sgx, l
		}
	}
	return sgx, nil
}

// reaches reports whether every SVN in have is at least that in want.
func reaches(have, want []byte) bool {
	for i := range want {
		if have[i] < want[i] {
			return false
		}
	}
	return true
}

// match returns the first, that is the highest, level that svn reaches, or nil.
func (m *moduleIdentity) match(svn uint8) *isvLevel {
	for i := range m.levels {
		if uint16(svn) >= m.levels[i].svn {
			return &m.levels[i]
		}
	}
	return nil
}

// relaunch returns the status of a TD that was launched on an outdated TDX module
// which has been updated since: relaunching it is all that's needed. Else it
// returns status unchanged. It is checkForRelaunch in Intel's TDRelaunchCheck.cpp:
// only if
//
//   - the quoting enclave is neither out of date nor revoked,
//   - the platform, by its SGX components, is neither out of date nor revoked,
//   - the TD, by the components when it was launched, and the module, are out of date,
//   - and the current components svn2 reach the newest TCB level: SVN and
//     component 2, with the SVN taken from the newest level of the current module's
//     identity if the module has a version, else from component 0.
//
// A current module that TCB info doesn't recognise is refused.
func relaunch(svn2 []byte, t *tcbInfo, sgx, status, module, qe Status) (Status, error) {
	if qe == StatusOutOfDate || qe == StatusRevoked {
		return status, nil
	}
	switch sgx {
	case StatusUpToDate, StatusSWHardeningNeeded, StatusConfigurationNeeded, StatusConfigurationAndSWHardeningNeeded:
	default:
		return status, nil
	}
	if status != StatusOutOfDate && status != StatusOutOfDateConfigurationNeeded || module != StatusOutOfDate {
		return status, nil
	}
	newest := &t.levels[0]
	svn := uint16(newest.tdx[0])
	if version := svn2[1]; version > 0 {
		m := t.identity(moduleID(version))
		if m == nil {
			return "", refuse(ReasonModule, "TCB info has no identity for the current TDX module %s", moduleID(version))
		}
		svn = m.levels[0].svn
	}
	if uint16(svn2[0]) < svn || svn2[2] < newest.tdx[2] {
		return status, nil
	}
	if sgx.configurationNeeded() || status.configurationNeeded() {
		return StatusTDRelaunchAdvisedConfigurationNeeded, nil
	}
	return StatusTDRelaunchAdvised, nil
}
