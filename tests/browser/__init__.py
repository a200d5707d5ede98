"""What a browser makes of the report."""
