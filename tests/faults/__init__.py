"""Counterparts that tests talk to, and the faults they can play."""
