"""Replay: years of history through the very same path, thousands of cutoffs per batch."""

from forecaster.replay.histories import Histories
from forecaster.replay.replay import ReplayPlan, replay

__all__ = ["Histories", "ReplayPlan", "replay"]
