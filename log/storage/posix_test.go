package storage_test

import (
	"slices"
	"testing"

	"github.com/affidavit-log/affidavit/log/storage"
)

// Objects have the same names whatever files they are in.
func TestPosixList(t *testing.T) {
	s := storage.NewPosix(t.TempDir())
	names := []string{"blob/00aa", "blob/01bb", "checkpoint", "tile/0/000", "tile/0/x001/002.p/3", "tile/entries/000.p/7"}
	for _, n := range names {
		if err := s.Put(t.Context(), n, []byte(n)); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Get(t.Context(), n); err != nil || string(b) != n {
			t.Errorf("%s: %q, %v", n, b, err)
		}
	}
	for _, tt := range []struct {
		prefix string
		want   []string
	}{
		{storage.BlobPrefix, names[:2]},
		{"blob/01", names[1:2]},
		{storage.TilePrefix, names[3:]},
		{"tile/0/000", names[3:4]},
		{"tile/0/", names[3:5]},
		{"tile/entries/", names[5:]},
		{"tile/9/", nil},
	} {
		var got []string
		for n, err := range s.List(t.Context(), tt.prefix) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n)
		}
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.prefix, got, tt.want)
		}
	}
	for n, err := range s.List(t.Context(), storage.TilePrefix) {
		if err != nil || n == "" {
			t.Errorf("%q, %v", n, err)
		}
		break // must not panic
	}
}
