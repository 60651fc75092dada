package keys

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// Agent returns a log's or witness's Ed25519 key, of kind [checkpoint.Ed25519] or [checkpoint.CosignatureEd25519], whose
// private half is in an SSH agent: OpenSSH's, one that keeps it in hardware, or affidavit-signer in front of a PKCS #11
// token. Whatever speaks the agent's protocol (draft-miller-ssh-agent) will do, such as a small program in front of a
// cloud's key service. The public key is a line of OpenSSH's form, as in id_ed25519.pub. The agent must be at the socket
// now, and for each signature, which is verified before it is used.
//
// An agent signs whatever it is given, so the key must serve nothing else: no SSH login, and no second log or witness.
// What we have it sign can't be taken for a login. A checkpoint, with or without the header of a cosignature, begins with
// a line of text, and what SSH signs (RFC 4252, section 7) with the length of the session identifier: four bytes, of which
// the first is zero. The other way round a server that somebody logs in to doesn't choose what is signed.
func Agent(kind checkpoint.Kind, name, socket string, publicKey []byte) (*checkpoint.SigningKey, error) {
	pub, _, _, rest, err := ssh.ParseAuthorizedKey(publicKey)
	if err != nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("not one public key in OpenSSH's form: %v", err)
	}
	c, ok := pub.(ssh.CryptoPublicKey)
	if !ok {
		return nil, fmt.Errorf("key of type %s, want ssh-ed25519", pub.Type())
	}
	ed, ok := c.CryptoPublicKey().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("key of type %s, want ssh-ed25519", pub.Type())
	}
	if socket == "" {
		return nil, errors.New("no SSH agent: SSH_AUTH_SOCK isn't set")
	}
	s := &agentSigner{socket: socket, ssh: pub, public: ed}
	if err := s.has(); err != nil {
		return nil, fmt.Errorf("SSH agent at %s: %w", socket, err)
	}
	return checkpoint.NewSigningKey(kind, name, s)
}

// agentSigner is a [crypto.Signer] for Ed25519.
type agentSigner struct {
	socket string
	ssh    ssh.PublicKey
	public ed25519.PublicKey

	// mu guards conn and its client, and is held during a request. A client has
	// a goroutine that reads from its connection, so that there is one of each.
	mu     sync.Mutex
	conn   net.Conn
	client agent.ExtendedAgent
}

// agentTimeout bounds a request. Agents that ask a person aren't for a daemon.
const agentTimeout = 10 * time.Second

// with calls f with a client, and once again with a new connection if f fails:
// the agent may have been restarted.
func (s *agentSigner) with(f func(agent.ExtendedAgent) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for first := true; ; first = false {
		fresh := s.conn == nil
		if fresh {
			conn, err := net.DialTimeout("unix", s.socket, agentTimeout)
			if err != nil {
				return err
			}
			s.conn, s.client = conn, agent.NewClient(conn)
		}
		if err := s.conn.SetDeadline(time.Now().Add(agentTimeout)); err != nil {
			return err
		}
		err := f(s.client)
		if err == nil {
			return s.conn.SetDeadline(time.Time{}) // the client reads on, until the next request
		}
		s.conn.Close()
		s.conn, s.client = nil, nil
		if fresh || !first {
			return err
		}
	}
}

func (s *agentSigner) has() error {
	return s.with(func(a agent.ExtendedAgent) error {
		keys, err := a.List()
		if err != nil {
			return err
		}
		for _, k := range keys {
			if bytes.Equal(k.Blob, s.ssh.Marshal()) {
				return nil
			}
		}
		return fmt.Errorf("has %d keys, not the one named", len(keys))
	})
}

func (s *agentSigner) Public() crypto.PublicKey { return s.public }

func (s *agentSigner) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) (sig []byte, err error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("SSH agents sign messages, not hashes")
	}
	err = s.with(func(a agent.ExtendedAgent) error {
		r, err := a.Sign(s.ssh, message)
		if err != nil {
			return err
		}
		if r.Format != ssh.KeyAlgoED25519 {
			return fmt.Errorf("signature of format %q", r.Format)
		}
		sig = r.Blob
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("SSH agent: %w", err)
	}
	// The agent is another process, perhaps on hardware that fails: what we
	// answer must verify.
	if !ed25519.Verify(s.public, message, sig) {
		return nil, errors.New("SSH agent: the signature doesn't verify")
	}
	return sig, nil
}

// AgentFile is [Agent] with the public key in a file, and the agent at the socket that the environment's SSH_AUTH_SOCK names.
func AgentFile(kind checkpoint.Kind, name, file string) (*checkpoint.SigningKey, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	k, err := Agent(kind, name, os.Getenv("SSH_AUTH_SOCK"), b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}
