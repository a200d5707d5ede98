"""Strategies: pure functions from a forecast to a signal, on the public names of `forecaster` alone.

The command line takes one by its dotted name: `strategies.trend` is the function `trend` of that module.
"""
