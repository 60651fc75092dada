package tdx

import "time"

// Cached returns how many platforms v remembers.
func (v *Verifier) Cached() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.platforms.Len()
}

// ExpiredItems returns the parts of s that have expired at that time.
func (s *Set) ExpiredItems(at time.Time) map[string]bool {
	items := make(map[string]bool)
	for i := range s.windows {
		if err := s.windows[i].check(at); err != nil && err.Reason == ReasonExpired {
			items[s.windows[i].item] = true
		}
	}
	return items
}
