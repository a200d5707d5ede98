"""Strategies on forecasts in other frameworks, complete and runnable."""
