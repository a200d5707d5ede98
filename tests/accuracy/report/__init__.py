"""Tests of `forecaster/accuracy/report/`."""
