package main

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// Logs of earlier tests may still be ending when a test starts its own: none changes the process's one klog.
func init() {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	setTesseraLogger = func(*slog.Logger) {}
}
