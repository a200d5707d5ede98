"""Forecasts for other frameworks: frames and plain records in and out; no framework is imported."""
