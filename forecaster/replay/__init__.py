"""Replay: years of history through the very same path, thousands of cutoffs per batch."""

from forecaster.replay.replay import replay

__all__ = ["replay"]
