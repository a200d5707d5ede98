"""Replay: years of history through the very same path, thousands of cutoffs per batch."""
