"""Tests of `forecaster/model/chronos2/`."""
