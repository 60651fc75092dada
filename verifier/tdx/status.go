package tdx

// A Status is a TCB status, in the words of Intel's JSON. Each says how far the
// platform's firmware and configuration were up to date, by the collateral used.
type Status string

const (
	StatusUpToDate                          Status = "UpToDate"
	StatusSWHardeningNeeded                 Status = "SWHardeningNeeded"
	StatusConfigurationNeeded               Status = "ConfigurationNeeded"
	StatusConfigurationAndSWHardeningNeeded Status = "ConfigurationAndSWHardeningNeeded"
	StatusOutOfDate                         Status = "OutOfDate"
	StatusOutOfDateConfigurationNeeded      Status = "OutOfDateConfigurationNeeded"
	// StatusRevoked occurs only in an [Error].
	StatusRevoked Status = "Revoked"

	// The platform and its TDX module are up to date by now, but weren't when
	// the TD was launched.
	StatusTDRelaunchAdvised                    Status = "TDRelaunchAdvised"
	StatusTDRelaunchAdvisedConfigurationNeeded Status = "TDRelaunchAdvisedConfigurationNeeded"
)

// valid reports whether s can be the status of a TCB level of a platform
// (VALID_TCB_INFO_STATUSES in Intel's TcbStatus.h).
func (s Status) valid() bool {
	switch s {
	case StatusUpToDate, StatusSWHardeningNeeded, StatusConfigurationNeeded, StatusConfigurationAndSWHardeningNeeded,
		StatusOutOfDate, StatusOutOfDateConfigurationNeeded, StatusRevoked:
		return true
	}
	return false
}

// validModule reports whether s can be the status of a TCB level of a TDX
// module (VALID_MODULE_TCB_STATUSES in Intel's TcbStatus.h).
func (s Status) validModule() bool {
	return s == StatusUpToDate || s == StatusOutOfDate || s == StatusRevoked
}

// validQE reports whether s can be the status of a TCB level of a quoting
// enclave (parseStringToTcbStatus in Intel's TcbStatus.h).
func (s Status) validQE() bool {
	switch s {
	case StatusUpToDate, StatusConfigurationNeeded, StatusOutOfDate, StatusOutOfDateConfigurationNeeded, StatusRevoked:
		return true
	}
	return false
}

// configurationNeeded is isConfigurationNeeded in Intel's TDRelaunchCheck.cpp.
func (s Status) configurationNeeded() bool {
	switch s {
	case StatusConfigurationNeeded, StatusOutOfDateConfigurationNeeded, StatusConfigurationAndSWHardeningNeeded,
		StatusTDRelaunchAdvisedConfigurationNeeded:
		return true
	}
	return false
}

// merge returns the status of a platform of status s that has a component (TDX
// module or quoting enclave) of status c. A revoked component revokes the whole;
// one that is out of date makes the whole out of date, and keeps the need for
// configuration if there was one; else the component changes nothing. This is
// what convergeTcbStatusWithTdxModuleStatus (Intel's TdxModuleCheck.cpp) and
// convergeTcbStatusWithQeTcbStatus (TcbLevelCheck.cpp) have in common; the latter
// also lets statuses of a TD to be relaunched through, which never meet a quoting
// enclave that is out of date, see relaunch.
func merge(s, c Status) Status {
	switch c {
	case StatusRevoked:
		return StatusRevoked
	case StatusOutOfDate:
		switch s {
		case StatusUpToDate, StatusSWHardeningNeeded:
			return StatusOutOfDate
		case StatusConfigurationNeeded, StatusConfigurationAndSWHardeningNeeded:
			return StatusOutOfDateConfigurationNeeded
		}
	}
	return s
}
