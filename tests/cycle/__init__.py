"""Tests of `forecaster/cycle/`."""
