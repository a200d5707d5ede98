"""Bars of exchanges, through ccxt: requests, payload checks, rate limits, pages, server time."""
