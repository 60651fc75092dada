package witness

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// AgentKey returns a cosignature key whose private half is in an SSH agent, for
// example one that keeps it in hardware. The public key is a line of OpenSSH's
// form, as in id_ed25519.pub; only Ed25519 is possible. The agent must be at the
// socket now, and for each signature.
func AgentKey(name, socket string, publicKey []byte) (*checkpoint.SigningKey, error) {
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
	return checkpoint.NewSigningKey(checkpoint.CosignatureEd25519, name, s)
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

// agentTimeout bounds a request. Agents that ask a person aren't for a witness.
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
