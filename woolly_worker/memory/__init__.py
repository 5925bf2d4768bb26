"""Bytes in RAM, allocated once."""
