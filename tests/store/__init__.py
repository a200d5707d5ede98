"""Where bars, forecasts and runs are kept."""
