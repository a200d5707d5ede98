"""Tests of the adapters; those against the real frameworks are marked `adapters`."""
