"""Bytes on disk; no arithmetic."""
