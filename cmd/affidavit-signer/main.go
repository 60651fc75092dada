//go:build pkcs11

// Command affidavit-signer keeps a log's or witness's Ed25519 key in a PKCS #11 token, such as a hardware security module,
// and signs for the daemon that asks at a unix socket. It speaks the protocol of SSH agents, so that affidavit-log and
// affidavit-witness need not know of PKCS #11, nor of the C library that each vendor has for it:
//
//	affidavit-signer --module /usr/lib/softhsm/libsofthsm2.so --token affidavit --pin-file pin --key log-2026 \
//	    --type log --name log.example.org/2026 --generate > log.pub
//	affidavit-signer --module … --token affidavit --pin-file pin --key log-2026 \
//	    --type log --name log.example.org/2026 --socket /run/affidavit/signer.sock
//	SSH_AUTH_SOCK=/run/affidavit/signer.sock affidavit-log --ssh-agent-key log.pub …
//
// It signs checkpoints only: for a log those of its origin, for a witness cosignatures. Whoever reaches the socket can have
// such made, and nothing else, and never gets the key.
//
// It is the one command that needs cgo, and isn't built unless asked for: go build -tags pkcs11 ./cmd/affidavit-signer
package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/spf13/pflag"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	"github.com/affidavit-log/affidavit/cmd/internal/version"
	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// Exit statuses.
const (
	exitUsage = 64
	exitError = 1
)

const usage = `affidavit-signer signs checkpoints with an Ed25519 key in a PKCS #11 token.

  affidavit-signer --module FILE --token LABEL --pin-file FILE --key LABEL --type log|witness --name NAME
      --generate | --show | --socket FILE

With --generate it makes the key, and with --show it looks for it: its public key goes to the standard output, in OpenSSH's
form, for --ssh-agent-key of affidavit-log and affidavit-witness, and its vkey, for log policies, to the standard error.
With --socket it signs, for whoever can connect to FILE (mode 0600), until it is told to stop.
The exit status is 64 for wrong usage, 1 if the token can't be used, else 0.

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	t := new(token)
	f := pflag.NewFlagSet("affidavit-signer", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.SortFlags = false
	f.StringVar(&t.module, "module", "", "shared library `FILE` of the token's vendor, such as /usr/lib/softhsm/libsofthsm2.so")
	f.StringVar(&t.label, "token", "", "`LABEL` of the token")
	f.StringVar(&t.pinFile, "pin-file", "", "`FILE` (mode 0600) with the token's user PIN")
	f.StringVar(&t.key, "key", "", "`LABEL` of the key in the token")
	typ := f.String("type", "", "`TYPE` of the key: log or witness, as in affidavit keygen")
	name := f.String("name", "", "`NAME` of the key: the log's origin, or the witness's name")
	socket := f.String("socket", "", "unix socket `FILE` to sign at")
	generate := f.Bool("generate", false, "make the key, which must not exist; it can't be taken out of the token")
	show := f.Bool("show", false, "only show the public key")
	showVersion := f.Bool("version", false, "print what this command was built from, and end")
	err := f.Parse(args)
	kinds := map[string]checkpoint.Kind{"log": checkpoint.Ed25519, "witness": checkpoint.CosignatureEd25519}
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprint(stdout, usage, f.FlagUsagesWrapped(100))
		return 0
	case err == nil && *showVersion:
		fmt.Fprintln(stdout, version.Line("affidavit-signer"))
		return 0
	case err != nil:
	case f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	case t.module == "" || t.label == "" || t.pinFile == "" || t.key == "" || *name == "":
		err = errors.New("--module, --token, --pin-file, --key and --name are all needed")
	case kinds[*typ] == 0:
		err = fmt.Errorf("--type %q: want log or witness", *typ)
	case *generate && *show || (*generate || *show) == (*socket != ""):
		err = errors.New("want one of --generate, --show and --socket")
	}
	if err != nil {
		fmt.Fprintf(stderr, "affidavit-signer: %v\nTry --help.\n", err)
		return exitUsage
	}
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	if err := t.open(*generate); err != nil {
		logger.Error("stopped", "err", err)
		return exitError
	}
	defer t.close()
	vkey, err := checkpoint.NewVerifierKey(kinds[*typ], *name, t.public)
	if err != nil {
		logger.Error("stopped", "err", err)
		return exitError
	}
	logger.Info("key", "vkey", vkey.String())
	s := &signer{token: t, kind: kinds[*typ], name: *name}
	if *generate || *show {
		line := bytes.TrimSuffix(ssh.MarshalAuthorizedKey(s.ssh()), []byte("\n"))
		fmt.Fprintf(stdout, "%s %s\n", line, *name)
		return 0
	}
	if err := s.serve(ctx, *socket, logger); err != nil {
		logger.Error("stopped", "err", err)
		return exitError
	}
	return 0
}

// A token is a PKCS #11 token with the key.
type token struct {
	module, label, pinFile, key string
	public                      ed25519.PublicKey

	mu      sync.Mutex // guards what follows, and is held while the token works
	ctx     *pkcs11.Ctx
	session pkcs11.SessionHandle
	private pkcs11.ObjectHandle
}

// oidEd25519 is the DER of id-Ed25519 (RFC 8410), one of the two names that CKA_EC_PARAMS can have, and the one that
// SoftHSM knows.
var oidEd25519 = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}

// Numbers of PKCS #11 version 3.0 that package pkcs11 may not have.
const (
	ckkECEdwards           = 0x40
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEdDSA               = 0x1057
)

// open loads the module, logs in, and finds the key, or makes it.
func (t *token) open(generate bool) error {
	if t.ctx = pkcs11.New(t.module); t.ctx == nil {
		return fmt.Errorf("--module %s: not a PKCS #11 library that can be loaded", t.module)
	}
	if err := t.ctx.Initialize(); err != nil {
		return fmt.Errorf("--module %s: %w", t.module, err)
	}
	err := t.login()
	if err == nil && generate {
		err = t.generate()
	}
	if err == nil {
		err = t.find()
	}
	if err != nil {
		t.close()
	}
	return err
}

func (t *token) close() {
	// Errors would change nothing any more.
	_ = t.ctx.Finalize()
	t.ctx.Destroy()
}

// login opens a session. t.mu is held, or nobody else has t yet.
func (t *token) login() error {
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return fmt.Errorf("slots: %w", err)
	}
	for _, slot := range slots {
		info, err := t.ctx.GetTokenInfo(slot)
		if err != nil || info.Label != t.label {
			continue
		}
		if t.session, err = t.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
			return fmt.Errorf("token %q: %w", t.label, err)
		}
		pin, err := keys.ReadFile(t.pinFile)
		if err != nil {
			return err
		}
		defer clear(pin)
		err = t.ctx.Login(t.session, pkcs11.CKU_USER, string(bytes.TrimRight(pin, "\r\n")))
		if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
			return fmt.Errorf("token %q: %w", t.label, err)
		}
		return nil
	}
	return fmt.Errorf("no token %q among %d slots", t.label, len(slots))
}

// objects returns the handles of the objects of a class that have the key's label.
func (t *token) objects(class uint) ([]pkcs11.ObjectHandle, error) {
	err := t.ctx.FindObjectsInit(t.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, ckkECEdwards), pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.key),
	})
	if err != nil {
		return nil, err
	}
	found, _, err := t.ctx.FindObjects(t.session, 2)
	return found, errors.Join(err, t.ctx.FindObjectsFinal(t.session))
}

// find finds the key, of which there must be one.
func (t *token) find() error {
	for _, o := range []struct {
		class uint
		what  string
		found func(pkcs11.ObjectHandle) error
	}{
		{pkcs11.CKO_PRIVATE_KEY, "private", func(h pkcs11.ObjectHandle) error { t.private = h; return nil }},
		{pkcs11.CKO_PUBLIC_KEY, "public", t.readPublic},
	} {
		list, err := t.objects(o.class)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("there are %d, want one", len(list))
		}
		if err == nil {
			err = o.found(list[0])
		}
		if err != nil {
			return fmt.Errorf("%s Ed25519 key %q of token %q: %w", o.what, t.key, t.label, err)
		}
	}
	return nil
}

func (t *token) readPublic(h pkcs11.ObjectHandle) error {
	a, err := t.ctx.GetAttributeValue(t.session, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return err
	}
	// Version 3.0 has the point as it is, others in an OCTET STRING.
	point := bytes.TrimPrefix(a[0].Value, []byte{4, ed25519.PublicKeySize})
	if len(point) != ed25519.PublicKeySize {
		return fmt.Errorf("a point of %d bytes", len(a[0].Value))
	}
	t.public = point
	return nil
}

// generate makes the key, so that it never leaves the token.
func (t *token) generate() error {
	if list, err := t.objects(pkcs11.CKO_PRIVATE_KEY); err != nil {
		return err
	} else if len(list) > 0 {
		return fmt.Errorf("token %q has a key %q already, which is never replaced: choose another label", t.label, t.key)
	}
	id := []byte(t.key)
	_, _, err := t.ctx.GenerateKeyPair(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmECEdwardsKeyPairGen, nil)},
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, oidEd25519),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.key), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		},
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.key), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		})
	if err != nil {
		return fmt.Errorf("making an Ed25519 key in token %q: %w", t.label, err)
	}
	return nil
}

// sign has the token sign, and once again in a new session if that fails: a module that lost its device, or was told to
// end sessions, has forgotten the login.
func (t *token) sign(message []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	once := func() ([]byte, error) {
		if err := t.ctx.SignInit(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmEdDSA, nil)}, t.private); err != nil {
			return nil, err
		}
		return t.ctx.Sign(t.session, message)
	}
	sig, err := once()
	if err == nil {
		return sig, nil
	}
	_ = t.ctx.CloseSession(t.session)
	if err := errors.Join(t.login(), t.find()); err != nil {
		return nil, err
	}
	return once()
}

// A signer is an SSH agent with one key, which signs checkpoints.
type signer struct {
	token *token
	kind  checkpoint.Kind
	name  string
}

var errNot = errors.New("this agent has one key, and signs checkpoints with it")

func (s *signer) ssh() ssh.PublicKey {
	k, err := ssh.NewPublicKey(s.token.public)
	if err != nil {
		panic(err) // an Ed25519 key
	}
	return k
}

func (s *signer) List() ([]*agent.Key, error) {
	k := s.ssh()
	return []*agent.Key{{Format: k.Type(), Blob: k.Marshal(), Comment: s.name}}, nil
}

func (s *signer) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	if !bytes.Equal(key.Marshal(), s.ssh().Marshal()) {
		return nil, errNot
	}
	if err := s.check(data); err != nil {
		return nil, err
	}
	sig, err := s.token.sign(data)
	if err != nil {
		return nil, err
	}
	if !ed25519.Verify(s.token.public, data, sig) {
		return nil, errors.New("the token made a signature that doesn't verify")
	}
	return &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: sig}, nil
}

// check refuses what such a key has no business to sign.
func (s *signer) check(data []byte) error {
	text := data
	if s.kind == checkpoint.CosignatureEd25519 {
		// "two newline terminated lines (one header line and one timestamp line) followed by the whole note body"
		// (c2sp.org/tlog-cosignature).
		rest, ok := bytes.CutPrefix(data, []byte("cosignature/v1\ntime "))
		at, rest, ok2 := bytes.Cut(rest, []byte("\n"))
		n, err := strconv.ParseUint(string(at), 10, 63)
		if !ok || !ok2 || err != nil || n == 0 || strconv.FormatUint(n, 10) != string(at) {
			return errors.New("not a cosignature")
		}
		text = rest
	}
	c, err := checkpoint.ParseCheckpoint(text)
	if err != nil {
		return err
	}
	if s.kind == checkpoint.Ed25519 && c.Origin != s.name {
		return fmt.Errorf("checkpoint of %.100q, and the key is for %s", c.Origin, s.name)
	}
	return nil
}

func (s *signer) Add(agent.AddedKey) error       { return errNot }
func (s *signer) Remove(ssh.PublicKey) error     { return errNot }
func (s *signer) RemoveAll() error               { return errNot }
func (s *signer) Lock([]byte) error              { return errNot }
func (s *signer) Unlock([]byte) error            { return errNot }
func (s *signer) Signers() ([]ssh.Signer, error) { return nil, errNot }

// serve answers at a socket until ctx is done.
func (s *signer) serve(ctx context.Context, socket string, logger *slog.Logger) error {
	// What a process left that was killed, but not the socket of one that answers.
	if c, err := net.Dial("unix", socket); err == nil {
		c.Close()
		return fmt.Errorf("--socket %s: somebody answers there", socket)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	old := syscall.Umask(0o177) // the socket is the owner's alone from its first moment
	l, err := net.Listen("unix", socket)
	syscall.Umask(old)
	if err != nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	logger.Info("signing", "socket", socket)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			logger.Error("accept", "err", err)
			time.Sleep(100 * time.Millisecond) // such as too many open files
			continue
		}
		wg.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			if err := agent.ServeAgent(s, c); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
				logger.Error("connection", "err", err)
			}
		})
	}
}
