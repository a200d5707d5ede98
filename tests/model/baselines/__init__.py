"""Tests of `forecaster/model/baselines/`."""
