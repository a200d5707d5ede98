"""Bars of exchanges, through ccxt."""
