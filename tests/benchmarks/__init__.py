"""Benchmarks, run by hand, each compared with its real peer; times of the model: `model_speed`."""
