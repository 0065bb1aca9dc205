"""Candidates become a list: pure numpy, so that the night replays exactly what the day runs."""
