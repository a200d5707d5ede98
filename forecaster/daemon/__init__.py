"""The long-running service: when cycles are due, and the demo that runs it on a sped-up clock."""
