"""Tests of the forecasting service; they mirror the tree."""
