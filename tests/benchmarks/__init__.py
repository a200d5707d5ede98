"""Benchmarks, run by hand, each beside its real peer. Times are `forecaster bench model`."""
