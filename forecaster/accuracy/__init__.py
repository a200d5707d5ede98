"""How good forecasts were: metrics, scores over settled rows, and the report that people look at."""
