"""Tables as people write them: columns, numbers, times, zones."""
