"""Strategies: pure functions from a forecast to a signal, on the public names of `forecaster` alone."""
