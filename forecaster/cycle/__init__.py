"""One cycle, in the order in which a bar travels: ingest, pending, predict, calibrate, record, settle."""
