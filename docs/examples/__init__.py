"""Strategies on forecasts in other people's frameworks, whole and runnable."""
