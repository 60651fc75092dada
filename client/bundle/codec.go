package bundle

// The bytes of an .affidavit file.
//
// An .affidavit file is a ZIP archive (APPNOTE.TXT 6.3.10) in which nothing is left to choose: two bundles with the
// same contents are the same bytes, and a file that differs in any bit from the one encoding of its contents is
// refused. Integers are little-endian, as everywhere in ZIP. The file is, with nothing before, between or after:
//
//	for each member, in ascending bytewise order of names:
//	    local file header (30 bytes), the name, the data
//	for each member, in the same order:
//	    central directory header (46 bytes), the name
//	end of central directory record (22 bytes)
//
//	local file header              central directory header          end of central directory
//	 0  4  50 4b 03 04              0  4  50 4b 01 02                 0  4  50 4b 05 06
//	 4  2  10 (version needed)      4  2  10 (made by: MS-DOS, 1.0)   4  2  0 (this disk)
//	 6  2  0 (flags)                6  2  10 (version needed)         6  2  0 (disk of the directory)
//	 8  2  0 (method: stored)       8  2  0 (flags)                   8  2  number of members
//	10  2  0 (time: 00:00:00)      10  2  0 (method: stored)         10  2  number of members
//	12  2  33 (date: 1980-01-01)   12  2  0 (time)                   12  4  size of the directory
//	14  4  CRC-32 of the data      14  2  33 (date)                  16  4  offset of the directory
//	18  4  size of the data        16  4  CRC-32 of the data         20  2  0 (comment length)
//	22  4  size of the data        20  4  size of the data
//	26  2  length of the name      24  4  size of the data
//	28  2  0 (extra length)        28  2  length of the name
//	30     name, data              30  2  0 (extra length)
//	                               32  2  0 (comment length)
//	                               34  2  0 (disk)
//	                               36  2  0 (internal attributes)
//	                               38  4  0 (external attributes)
//	                               42  4  offset of the local file header
//	                               46     name
//
// CRC-32 is the one of ZIP (IEEE 802.3, reflected). There are no directory members, extra fields, comments, data
// descriptors, encryption, compression or ZIP64 records. Names hold only a-z, A-Z, 0-9, '.', '-' and one '/' as in
// the list below, so no tool can be led to write elsewhere. The members are exactly these:
//
//	README.txt                    the constant text [readme], byte for byte
//	blobs/HEX                     0 to 256: a component of a collateral leaf; HEX is the lowercase SHA-256 of the data
//	bundle                        "affidavit-bundle/v1\nsubject INDEX\n", INDEX a decimal without leading zeros: the
//	                              index of the leaf that the bundle is about, for which there is a proof
//	consistency/SIZE              0 to 64: the RFC 6962 consistency proof from the tree of SIZE leaves to that of the
//	                              bundle's checkpoint: one hash a line in standard base64 with padding, 1 to 64 lines,
//	                              each ended by a newline. SIZE is 20 digits, zero-padded, at least 1
//	previous.affidavit            0 or 1: the bundle of the start of a session that ends in this bundle, from the shard
//	                              before this log; its own bytes, of version 1. With it this bundle is of version 2, and
//	                              its member "bundle" begins "affidavit-bundle/v2"
//	proofs/INDEX.tlog-proof       1 to 64: a c2sp.org/tlog-proof whose extra is the whole leaf. INDEX is 20 digits,
//	                              zero-padded, and is the index in the proof. The checkpoint note is the same in all
//
// Zero-padding makes the order of names that of numbers. The whole file is at most 16 MiB.

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// Limits of a bundle. A session needs about ten proofs: its start and final records, the release and its key, two sets
// of collateral, three time leaves, and one or a few model runs; the limits leave room for many model runs, and bound
// what a checker has to hold before it has verified anything.
const (
	// MaxSize is the size in bytes of the largest .affidavit file.
	MaxSize = 16 << 20
	// MaxProofs is the largest number of leaves in a bundle.
	MaxProofs = 64
	// MaxBlobs is the largest number of collateral components and evidence in a bundle: 36 whole sets of seven.
	MaxBlobs = 256
	// MaxConsistency is the largest number of consistency proofs in a bundle: one for each leaf, were all time leaves.
	MaxConsistency = MaxProofs
	// maxConsistencyHashes bounds a consistency proof: trees have at most 2^63 leaves (c2sp.org/tlog-checkpoint
	// readers refuse larger sizes), and a proof has at most one hash for each level, and one more to begin with.
	maxConsistencyHashes = 64
)

// ErrMalformed is wrapped by the errors of [Parse] and [Bundle.Bytes]: the file, or the value, is not a bundle in its
// one encoding.
var ErrMalformed = errors.New("malformed bundle")

// A Bundle is the contents of an .affidavit file: leaves with proofs that one log has them, and what they refer to.
// [Parse] returns a Bundle that is well-formed, which says nothing about its truth: see [Check].
type Bundle struct {
	// Subject is the index of the leaf that the bundle is about. All others are there because something refers to them.
	Subject uint64

	// Proofs holds a proof for each leaf, in ascending order of indices. Extra is the whole leaf, and Checkpoint is the
	// same in all of them.
	Proofs []*checkpoint.Proof

	// Blobs holds components of collateral, and evidence that records name by digest, by their SHA-256.
	Blobs map[record.Digest][]byte

	// Consistency holds, by size, proofs that the tree of that size is a prefix of the checkpoint's: one for each
	// checkpoint in a time leaf, except those of size 0 and of the bundle's own size, for which there is nothing to prove.
	Consistency map[uint64][][32]byte

	// Previous is the bundle of the session's start, if that is in the shard before this log (record.NextShard), else nil.
	// It has no Previous.
	Previous *Bundle
}

const (
	nameReadme = "README.txt"
	nameBundle = "bundle"

	// namePrevious makes a bundle one of version 2.
	namePrevious = "previous.affidavit"

	prefixBlob        = "blobs/"
	prefixConsistency = "consistency/"
	prefixProof       = "proofs/"
	suffixProof       = ".tlog-proof"

	bundleHeader   = "affidavit-bundle/v1\nsubject "
	bundleHeaderV2 = "affidavit-bundle/v2\nsubject "
)

// member is a file in the archive.
type member struct {
	name string
	data []byte
}

// Parse returns the bundle in b, an .affidavit file. It accepts exactly what [Bundle.Bytes] returns: for every bundle
// there is one file. Errors wrap [ErrMalformed].
//
// The bundle keeps parts of b, which must not be modified afterwards.
func Parse(b []byte) (*Bundle, error) { return parse(b, true) }

// parse parses a bundle, which may hold another one if it is the outer.
func parse(b []byte, outer bool) (*Bundle, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d allowed", ErrMalformed, len(b), MaxSize)
	}
	members, err := splitMembers(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	// Everything that splitMembers did not look at, such as times, checksums and the whole central directory, is
	// determined by the members; and they, with their order, by what is in them.
	if !bytes.Equal(joinMembers(members), b) {
		return nil, fmt.Errorf("%w: not the one encoding of its members (compressed, reordered, altered or repacked by another tool?)", ErrMalformed)
	}

	bun := &Bundle{Blobs: make(map[record.Digest][]byte), Consistency: make(map[uint64][][32]byte)}
	for _, m := range members {
		if m.name == namePrevious && outer {
			if bun.Previous, err = parse(m.data, false); err != nil {
				return nil, fmt.Errorf("member %q: %w", m.name, err)
			}
			continue
		}
		if err := bun.addMember(m); err != nil {
			return nil, fmt.Errorf("%w: member %q: %v", ErrMalformed, m.name, err)
		}
	}
	if err := bun.wellFormed(); err != nil {
		return nil, err
	}
	if !slices.EqualFunc(members, bun.members(), func(x, y member) bool { return x.name == y.name && bytes.Equal(x.data, y.data) }) {
		return nil, fmt.Errorf("%w: a member is missing, twice there, out of order, or written in another way than the one", ErrMalformed)
	}
	return bun, nil
}

// Bytes returns the .affidavit file of b. An error wraps [ErrMalformed]: b breaks one of the rules that are documented
// at its fields, or a limit.
func (b *Bundle) Bytes() ([]byte, error) {
	if err := b.wellFormed(); err != nil {
		return nil, err
	}
	members := b.members()
	size := endSize
	for _, m := range members {
		size += localSize + centralSize + 2*len(m.name) + len(m.data)
	}
	if size > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d allowed", ErrMalformed, size, MaxSize)
	}
	return joinMembers(members), nil
}

// members returns the members of b's file in their order.
func (b *Bundle) members() []member {
	members := make([]member, 0, 3+len(b.Proofs)+len(b.Blobs)+len(b.Consistency))
	header := bundleHeader
	if b.Previous != nil {
		header = bundleHeaderV2
		members = append(members, member{namePrevious, joinMembers(b.Previous.members())})
	}
	members = append(members,
		member{nameReadme, []byte(readme)},
		member{nameBundle, fmt.Appendf(nil, "%s%d\n", header, b.Subject)},
	)
	for digest, blob := range b.Blobs {
		members = append(members, member{prefixBlob + hex.EncodeToString(digest[:]), blob})
	}
	for size, hashes := range b.Consistency {
		members = append(members, member{consistencyName(size), consistencyText(hashes)})
	}
	for _, p := range b.Proofs {
		members = append(members, member{proofName(p.Index), p.Bytes()})
	}
	slices.SortFunc(members, func(x, y member) int { return cmp.Compare(x.name, y.name) })
	return members
}

// wellFormed checks the rules that need nothing but the bundle itself.
func (b *Bundle) wellFormed() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	switch {
	case len(b.Proofs) == 0:
		return fail("no proofs")
	case len(b.Proofs) > MaxProofs:
		return fail("%d proofs, at most %d allowed", len(b.Proofs), MaxProofs)
	case len(b.Blobs) > MaxBlobs:
		return fail("%d blobs, at most %d allowed", len(b.Blobs), MaxBlobs)
	case len(b.Consistency) > MaxConsistency:
		return fail("%d consistency proofs, at most %d allowed", len(b.Consistency), MaxConsistency)
	}
	if p := b.Previous; p != nil {
		if p.Previous != nil {
			return fail("the bundle from the shard before has one from that before it")
		}
		if err := p.wellFormed(); err != nil {
			return fmt.Errorf("the bundle from the shard before: %w", err)
		}
	}
	subject := false
	for i, p := range b.Proofs {
		switch {
		case p == nil:
			return fail("proof %d is nil", i)
		case len(p.Extra) == 0:
			return fail("the proof for index %d has no leaf in its extra line", p.Index)
		case i > 0 && p.Index == b.Proofs[i-1].Index:
			return fail("two proofs for index %d", p.Index)
		case i > 0 && p.Index < b.Proofs[i-1].Index:
			return fail("the proof for index %d comes after that for index %d", p.Index, b.Proofs[i-1].Index)
		case !bytes.Equal(p.Checkpoint, b.Proofs[0].Checkpoint):
			return fail("the proof for index %d has another checkpoint than that for index %d", p.Index, b.Proofs[0].Index)
		}
		subject = subject || p.Index == b.Subject
	}
	if !subject {
		return fail("there is no proof for the subject, index %d", b.Subject)
	}
	for digest, blob := range b.Blobs {
		if got := sha256.Sum256(blob); got != digest {
			return fail("the blob named %x has digest %x", digest, got)
		}
	}
	for size, hashes := range b.Consistency {
		switch {
		case size == 0:
			return fail("consistency with the empty tree needs no proof")
		case len(hashes) == 0:
			return fail("the consistency proof from size %d is empty", size)
		case len(hashes) > maxConsistencyHashes:
			return fail("the consistency proof from size %d has %d hashes, at most %d allowed", size, len(hashes), maxConsistencyHashes)
		}
	}
	return nil
}

// addMember adds what is in m to b. It doesn't check what Bytes and a comparison of the result with the input find.
func (b *Bundle) addMember(m member) error {
	switch {
	case m.name == nameReadme:
		if string(m.data) != readme {
			return errors.New("not the constant text of version 1: altered, or of a later version")
		}
		return nil

	case m.name == nameBundle:
		text, ok := strings.CutPrefix(string(m.data), bundleHeader)
		if !ok { // which of the two it must be follows from the other members
			text, ok = strings.CutPrefix(string(m.data), bundleHeaderV2)
		}
		if !ok {
			return fmt.Errorf("begins with %.40q, not with %q: a later version?", m.data, bundleHeader)
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(text, "\n"), 10, 64)
		if err != nil {
			return fmt.Errorf("bad subject %.40q", text)
		}
		b.Subject = n
		return nil

	case strings.HasPrefix(m.name, prefixBlob):
		name := strings.TrimPrefix(m.name, prefixBlob)
		var digest record.Digest
		if n, err := hex.Decode(digest[:], []byte(name)[:min(len(name), 2*len(digest))]); err != nil || n != len(digest) {
			return errors.New("not named by a SHA-256 in hexadecimal")
		}
		b.Blobs[digest] = m.data
		return nil

	case strings.HasPrefix(m.name, prefixConsistency):
		size, err := strconv.ParseUint(strings.TrimPrefix(m.name, prefixConsistency), 10, 64)
		if err != nil {
			return errors.New("not named by a tree size")
		}
		hashes, err := parseConsistency(m.data)
		if err != nil {
			return err
		}
		b.Consistency[size] = hashes
		return nil

	case strings.HasPrefix(m.name, prefixProof):
		p, err := checkpoint.ParseProof(m.data)
		if err != nil {
			return err
		}
		if m.name != proofName(p.Index) {
			return fmt.Errorf("holds the proof for index %d", p.Index)
		}
		b.Proofs = append(b.Proofs, p)
		return nil
	}
	return errors.New("a bundle has no such member")
}

func proofName(index uint64) string { return fmt.Sprintf("%s%020d%s", prefixProof, index, suffixProof) }

func consistencyName(size uint64) string { return fmt.Sprintf("%s%020d", prefixConsistency, size) }

func consistencyText(hashes [][32]byte) []byte {
	var b []byte
	for _, h := range hashes {
		b = base64.StdEncoding.AppendEncode(b, h[:])
		b = append(b, '\n')
	}
	return b
}

func parseConsistency(text []byte) ([][32]byte, error) {
	var hashes [][32]byte
	for line := range bytes.Lines(text) {
		if len(hashes) == maxConsistencyHashes {
			return nil, fmt.Errorf("more than %d hashes", maxConsistencyHashes)
		}
		var h [32]byte
		b, err := base64.StdEncoding.AppendDecode(nil, bytes.TrimSuffix(line, []byte("\n")))
		if err != nil || len(b) != len(h) {
			return nil, fmt.Errorf("line %.60q is not a SHA-256 in base64", line)
		}
		copy(h[:], b)
		hashes = append(hashes, h)
	}
	return hashes, nil
}

// Sizes of ZIP's structures without names and data, and the values of the fields that are not zero or computed.
const (
	localSize   = 30
	centralSize = 46
	endSize     = 22

	localMagic   = "PK\x03\x04"
	centralMagic = "PK\x01\x02"
	endMagic     = "PK\x05\x06"

	zipVersion = 10       // 1.0: the version of the format that knows stored members
	zipDate    = 1<<5 | 1 // 1980-01-01, the first date that ZIP can say

	// maxMembers bounds what splitMembers returns for hostile input.
	maxMembers = 3 + MaxProofs + MaxBlobs + MaxConsistency
)

// splitMembers returns the members at the beginning of b, reading as little as it can: the caller encodes them again
// and compares.
func splitMembers(b []byte) ([]member, error) {
	var members []member
	offset := 0
	for bytes.HasPrefix(b[offset:], []byte(localMagic)) {
		if len(members) == maxMembers {
			return nil, fmt.Errorf("more than %d members", maxMembers)
		}
		header := b[offset:]
		if len(header) < localSize {
			return nil, errors.New("truncated in a local file header")
		}
		size := uint64(binary.LittleEndian.Uint32(header[22:]))
		name := int(binary.LittleEndian.Uint16(header[26:]))
		rest := header[localSize:]
		if uint64(len(rest)) < uint64(name)+size {
			return nil, errors.New("truncated in a member")
		}
		end := name + int(size)
		members = append(members, member{string(rest[:name]), rest[name:end:end]})
		offset += localSize + end
	}
	if len(members) == 0 {
		return nil, errors.New("does not begin like a ZIP file")
	}
	return members, nil
}

// joinMembers returns the ZIP file of members in the given order. Names, data and their number are within limits that
// keep every field in its range.
func joinMembers(members []member) []byte {
	size := endSize
	for _, m := range members {
		size += localSize + centralSize + 2*len(m.name) + len(m.data)
	}
	b := make([]byte, 0, size)
	le := binary.LittleEndian
	// common appends the fields from "version needed" to "extra length", which both headers have.
	common := func(b []byte, m member, crc uint32) []byte {
		b = le.AppendUint16(b, zipVersion)
		b = le.AppendUint16(b, 0) // flags
		b = le.AppendUint16(b, 0) // stored
		b = le.AppendUint16(b, 0) // time
		b = le.AppendUint16(b, zipDate)
		b = le.AppendUint32(b, crc)
		b = le.AppendUint32(b, uint32(len(m.data))) // compressed
		b = le.AppendUint32(b, uint32(len(m.data))) // uncompressed
		b = le.AppendUint16(b, uint16(len(m.name)))
		return le.AppendUint16(b, 0) // no extra field
	}
	offsets := make([]uint32, len(members))
	sums := make([]uint32, len(members))
	for i, m := range members {
		offsets[i], sums[i] = uint32(len(b)), crc32.ChecksumIEEE(m.data)
		b = append(b, localMagic...)
		b = common(b, m, sums[i])
		b = append(b, m.name...)
		b = append(b, m.data...)
	}
	start := len(b)
	for i, m := range members {
		b = append(b, centralMagic...)
		b = le.AppendUint16(b, zipVersion) // made by
		b = common(b, m, sums[i])
		b = le.AppendUint16(b, 0) // no comment
		b = le.AppendUint16(b, 0) // disk
		b = le.AppendUint16(b, 0) // internal attributes
		b = le.AppendUint32(b, 0) // external attributes
		b = le.AppendUint32(b, offsets[i])
		b = append(b, m.name...)
	}
	directory := len(b) - start
	b = append(b, endMagic...)
	b = le.AppendUint16(b, 0) // this disk
	b = le.AppendUint16(b, 0) // the directory's disk
	b = le.AppendUint16(b, uint16(len(members)))
	b = le.AppendUint16(b, uint16(len(members)))
	b = le.AppendUint32(b, uint32(directory))
	b = le.AppendUint32(b, uint32(start))
	return le.AppendUint16(b, 0) // no comment
}

// readme is the text of README.txt, for whoever opens the file with an archiver. It is part of the format: changing a
// byte of it makes a new version, and older files unreadable.
const readme = `This is an Affidavit bundle: the evidence for one record of confidential AI work.

It says what happened in an AI coding session or a model run, as stated by code in an Intel TDX trust domain, with
the hardware's signature, and with proofs that the record is in a public append-only log.

Do not trust what you read here: check it. No network is needed:

    affidavit verify --log-policy FILE --appraisal-policy FILE THIS-FILE.affidavit

The two files say whom you trust: the log policy names the log and its witnesses, the appraisal policy says which
measurements or which vendor's releases you accept. Get them from somebody other than who gave you this file.

    bundle        which leaf of the log this file is about
    proofs/       leaves of the log, each with its proof of inclusion under one signed checkpoint (c2sp.org/tlog-proof)
    consistency/  proofs that earlier checkpoints are prefixes of that checkpoint
    blobs/        what Intel published about the platform when the record was judged, named by SHA-256

The file may hold pseudonyms that are personal data for whoever can link them. If it was repacked with an archiver, or
altered in a single bit, it is refused: keep it as you received it.
`
