"""Months of market time against a world of faults, all drawn from one seed: `python -m tests.simulation`."""
