"""Tests of the places that bars come from."""
