package keys

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// startAgent serves an SSH agent at a socket, and returns a function that ends
// it and its connections.
func startAgent(t *testing.T, socket string, a agent.Agent) (stop func()) {
	t.Helper()
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { c.Close() })
			go agent.ServeAgent(a, c)
		}
	}()
	stop = func() {
		cancel()
		ln.Close()
	}
	t.Cleanup(stop)
	return stop
}

// liar is an agent that signs something else.
type liar struct{ agent.Agent }

func (l liar) Sign(k ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return l.Agent.Sign(k, append(data, 'x'))
}

func socketOf(t *testing.T, a agent.Agent) string {
	socket := filepath.Join(t.TempDir(), "agent")
	startAgent(t, socket, a)
	return socket
}

// checkpointText is a note's text that every kind of key signs.
const checkpointText = "log.example/a\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"

func sshLine(t *testing.T, key ed25519.PrivateKey) []byte {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return ssh.MarshalAuthorizedKey(s.PublicKey())
}

// signs has k sign a checkpoint, and verifies the signature under the agent's key.
func signs(t *testing.T, k *checkpoint.SigningKey) error {
	t.Helper()
	line, err := k.Sign([]byte(checkpointText), time.Unix(5, 0))
	if err != nil {
		return err
	}
	n, err := checkpoint.ParseNote(append([]byte(checkpointText+"\n"), line...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Verifier().Verify(n.Text, n.Signatures[0]); err != nil {
		t.Error(err)
	}
	return nil
}

func TestAgent(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	line := sshLine(t, key)
	socket := filepath.Join(t.TempDir(), "agent")
	const name = "log.example/a"
	if _, err := Agent(checkpoint.Ed25519, name, socket, line); err == nil {
		t.Error("a key from an agent that isn't there")
	}
	if _, err := Agent(checkpoint.Ed25519, name, "", line); err == nil || !strings.Contains(err.Error(), "SSH_AUTH_SOCK") {
		t.Errorf("no socket: %v", err)
	}
	stop := startAgent(t, socket, ring)
	var k *checkpoint.SigningKey
	for _, kind := range []checkpoint.Kind{checkpoint.Ed25519, checkpoint.CosignatureEd25519} {
		var err error
		if k, err = Agent(kind, name, socket, line); err != nil {
			t.Fatal(err)
		}
		if k.Kind() != kind || !bytes.Equal(k.Verifier().PublicKey(), key.Public().(ed25519.PublicKey)) {
			t.Errorf("key %v of kind %v", k, k.Kind())
		}
		if err := signs(t, k); err != nil {
			t.Error(err)
		}
	}
	if _, err := Agent(checkpoint.CosignatureMLDSA44, name, socket, line); err == nil {
		t.Error("an Ed25519 key makes ML-DSA-44 signatures")
	}
	if _, err := Agent(checkpoint.Ed25519, name, socket, []byte("junk")); err == nil {
		t.Error("junk as public key")
	}
	if _, err := Agent(checkpoint.Ed25519, name, socket, sshLine(t, ed25519.NewKeyFromSeed(make([]byte, 32)))); err == nil {
		t.Error("a key that the agent doesn't have")
	}
	// The agent restarts, and is connected to again.
	stop()
	if err := signs(t, k); err == nil {
		t.Error("signed without an agent")
	}
	startAgent(t, socket, ring)
	if err := signs(t, k); err != nil {
		t.Error(err)
	}
	broken, err := Agent(checkpoint.Ed25519, name, socketOf(t, liar{ring}), line)
	if err != nil {
		t.Fatal(err)
	}
	if err := signs(t, broken); err == nil || !strings.Contains(err.Error(), "doesn't verify") {
		t.Errorf("an agent that signs something else: %v", err)
	}
	if err := ring.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	if err := signs(t, k); err == nil {
		t.Error("signed with a key that the agent no longer has")
	}
}
