"""Baselines: models that forecast beside Chronos-2, for comparison."""
