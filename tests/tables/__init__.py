"""Tests of tables: columns, numbers, times, zones."""
