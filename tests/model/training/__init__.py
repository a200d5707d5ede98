"""Tests of `forecaster/model/training/`."""
