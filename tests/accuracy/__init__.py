"""Tests of `forecaster/accuracy/`."""
