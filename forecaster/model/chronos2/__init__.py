"""Chronos-2: the checkpoint, the forward pass, compiled code, and the wrapper around them."""
