"""Tests of `forecaster/sources/exchange/`."""
