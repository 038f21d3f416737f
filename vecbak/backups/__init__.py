"""Backups on disk: file names, manifests, logs."""
