"""Forecasts for other people's frameworks: frames and plain records in and out, and none of them imported."""
