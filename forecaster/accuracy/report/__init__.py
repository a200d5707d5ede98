"""The accuracy report: what it contains, its figures, its page."""
