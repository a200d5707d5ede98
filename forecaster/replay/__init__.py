"""Replay history through the path that runs live, thousands of cutoffs per batch."""

from forecaster.replay.histories import HistoryLoader
from forecaster.replay.replay import ReplayPlan, run_replay

__all__ = ["HistoryLoader", "ReplayPlan", "run_replay"]
