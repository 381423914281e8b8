"""Readers: a source on disk becomes a `Recording`."""
