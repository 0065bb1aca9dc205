"""Accuracy on public data, by protocols that are the same for every model in a table."""
