"""Benchmarks: run by hand with `make bench`, each beside its real peer in the same run."""
