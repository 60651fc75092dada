package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	sessionlog "github.com/affidavit-log/affidavit/log"
	"github.com/affidavit-log/affidavit/log/storage/aws"
)

const storageUsage = "want posix:DIR or aws:BUCKET[?endpoint=URL&path-style=true&region=NAME]"

// openStorage makes the log's storage that of --storage.
func (o *options) openStorage(ctx context.Context, c *sessionlog.Config) error {
	c.Role = sessionlog.Role(o.role)
	kind, where, _ := strings.Cut(o.storage, ":")
	if where == "" {
		return fmt.Errorf("--storage %q: %s", o.storage, storageUsage)
	}
	switch kind {
	case "posix":
		if o.stateDir != "" || o.database != "" {
			return errors.New("--state-dir and --database are for a log in a cloud's storage")
		}
		c.Dir = where
		if fi, err := os.Stat(c.Dir); err == nil && !fi.IsDir() {
			return fmt.Errorf("--storage: %s is not a directory", c.Dir)
		}
		if !o.init {
			if err := sessionlog.Exists(c.Dir); err != nil {
				return fmt.Errorf("%w; see --init", err)
			}
		}
		return nil
	case "aws":
		a, err := awsConfig(where)
		if err != nil {
			return fmt.Errorf("--storage %q: %w", o.storage, err)
		}
		if c.Dir = o.stateDir; c.Dir == "" {
			return errors.New("--state-dir is missing: a directory of this process's own, for what it can build again")
		}
		if c.Role == sessionlog.RoleReader {
			if o.database != "" {
				return errors.New("a reader has no use for --database")
			}
			c.Objects, err = aws.OpenBucket(ctx, a)
			return err
		}
		if o.database == "" {
			return errors.New("--database is missing: the file with the data source name of the log's database")
		}
		dsn, err := keys.ReadFile(o.database)
		if err != nil {
			return err
		}
		a.DSN = strings.TrimSpace(string(dsn))
		c.Shared, err = aws.Open(ctx, a)
		return err
	}
	return fmt.Errorf("--storage %q: %s", o.storage, storageUsage)
}

// awsConfig parses what follows "aws:".
func awsConfig(s string) (aws.Config, error) {
	bucket, query, _ := strings.Cut(s, "?")
	c := aws.Config{Bucket: bucket}
	if bucket == "" || strings.ContainsAny(bucket, "/:") {
		return c, errors.New("a log has a bucket of its own, and no prefix in it: " + storageUsage)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return c, err
	}
	for k, v := range values {
		if len(v) != 1 {
			return c, fmt.Errorf("%s is there twice", k)
		}
		switch k {
		case "endpoint":
			if u, err := url.Parse(v[0]); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return c, fmt.Errorf("endpoint %q is no URL", v[0])
			}
			c.Endpoint = v[0]
		case "region":
			c.Region = v[0]
		case "path-style":
			if c.PathStyle, err = strconv.ParseBool(v[0]); err != nil {
				return c, fmt.Errorf("path-style %q is neither true nor false", v[0])
			}
		default:
			return c, fmt.Errorf("%s is unknown: %s", k, storageUsage)
		}
	}
	return c, nil
}
