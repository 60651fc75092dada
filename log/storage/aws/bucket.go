package aws

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/affidavit-log/affidavit/log/storage"
)

// A Bucket is a log's objects, for reading with credentials that allow no more than s3:GetObject and s3:ListBucket on it.
// Without the latter, S3 answers 403 for what isn't there. It implements [storage.Objects].
type Bucket struct {
	name    string
	client  *s3.Client
	sdk     sdk.Config
	options func(*s3.Options)
}

// requestTimeout bounds one request. The largest objects are bundles, of 16 MB at most.
const requestTimeout = 20 * time.Second

// OpenBucket returns a log's bucket. The database isn't used.
func OpenBucket(ctx context.Context, cfg Config) (*Bucket, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("no bucket")
	}
	region := cfg.Region
	var load []func(*config.LoadOptions) error
	if cfg.Endpoint != "" {
		if region == "" {
			region = "us-east-1"
		}
		load = append(load, config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	}
	if region != "" {
		load = append(load, config.WithRegion(region))
	}
	load = append(load, config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(requestTimeout).WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = 64
	})))
	c, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("configuration of AWS: %w", err)
	}
	b := &Bucket{name: cfg.Bucket, sdk: c, options: func(o *s3.Options) {
		o.UsePathStyle = cfg.PathStyle
		if cfg.Endpoint != "" {
			o.BaseEndpoint = sdk.String(cfg.Endpoint)
		}
	}}
	b.client = s3.NewFromConfig(c, b.options)
	return b, nil
}

// publishedKey is where the published checkpoint is. Tessera has its own at "checkpoint", which no witness has seen, under
// a key that nobody knows.
const publishedKey = "published/checkpoint"

func key(name string) string {
	if name == storage.Published {
		return publishedKey
	}
	return name
}

// What caches are told. Tessera tells them the same of tiles and bundles.
func headers(name string) (contentType, cache string) {
	if strings.HasPrefix(name, storage.BlobPrefix) {
		return "application/octet-stream", "public, max-age=31536000, immutable"
	}
	return "text/plain; charset=utf-8", "no-cache"
}

// code returns S3's error code, "" if the error isn't S3's.
func code(err error) string {
	if e := smithy.APIError(nil); errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

// get returns an object and its entity tag.
func (b *Bucket) get(ctx context.Context, name string) ([]byte, string, error) {
	r, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: sdk.String(key(name))})
	switch code(err) {
	case "NoSuchKey", "NotFound":
		return nil, "", fmt.Errorf("object %s: %w", key(name), fs.ErrNotExist)
	}
	if err != nil {
		return nil, "", away("object "+key(name), err)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, "", away("object "+key(name), err)
	}
	return data, sdk.ToString(r.ETag), nil
}

// Get implements [storage.Objects].
func (b *Bucket) Get(ctx context.Context, name string) ([]byte, error) {
	data, _, err := b.get(ctx, name)
	return data, err
}

// Put implements [storage.Objects].
func (b *Bucket) Put(ctx context.Context, name string, data []byte) error {
	_, err := b.put(ctx, name, data, func(*s3.PutObjectInput) {})
	return err
}

var errChanged = errors.New("the object is another than before")

// replace writes an object if its entity tag is still the given one, or if it doesn't exist and that is "". It returns the
// new tag. The error wraps errChanged if it is another, or may be, since a request that seemed to fail was repeated.
func (b *Bucket) replace(ctx context.Context, name string, data []byte, tag string) (string, error) {
	tag, err := b.put(ctx, name, data, func(in *s3.PutObjectInput) {
		if tag == "" {
			in.IfNoneMatch = sdk.String("*")
		} else {
			in.IfMatch = sdk.String(tag)
		}
	})
	switch code(err) {
	case "PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "NotFound":
		return "", fmt.Errorf("object %s: %w", key(name), errChanged)
	}
	return tag, err
}

func (b *Bucket) put(ctx context.Context, name string, data []byte, edit func(*s3.PutObjectInput)) (string, error) {
	contentType, cache := headers(name)
	in := &s3.PutObjectInput{Bucket: &b.name, Key: sdk.String(key(name)), Body: bytes.NewReader(data), ContentType: &contentType, CacheControl: &cache}
	edit(in)
	r, err := b.client.PutObject(ctx, in)
	if err != nil {
		return "", away("writing object "+key(name), err)
	}
	return sdk.ToString(r.ETag), nil
}

// List implements [storage.Objects].
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		p := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &prefix})
		for p.HasMorePages() {
			page, err := p.NextPage(ctx)
			if err != nil {
				yield("", away("listing "+prefix, err))
				return
			}
			for _, o := range page.Contents {
				if !yield(sdk.ToString(o.Key), nil) {
					return
				}
			}
		}
	}
}

// probe checks that the bucket is there and honours conditions, without which a checkpoint could go back.
func (b *Bucket) probe(ctx context.Context) error {
	const name = "affidavit-probe"
	if err := b.Put(ctx, name, []byte("one")); err != nil {
		return fmt.Errorf("the bucket can't be written: %w", err)
	}
	_, tag, err := b.get(ctx, name)
	if err != nil {
		return err
	}
	if _, err := b.replace(ctx, name, []byte("two"), ""); !errors.Is(err, errChanged) {
		return fmt.Errorf("the object store doesn't honour If-None-Match, which a log needs: it answered %v", err)
	}
	if _, err := b.replace(ctx, name, []byte("two"), tag); err != nil {
		return fmt.Errorf("the object store refuses If-Match with the tag that it gave: %w", err)
	}
	if _, err := b.replace(ctx, name, []byte("three"), tag); !errors.Is(err, errChanged) {
		return fmt.Errorf("the object store doesn't honour If-Match, which a log needs: it answered %v", err)
	}
	return nil
}
