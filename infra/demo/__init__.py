"""`make demo`: one night and one day on MovieLens 100K, as in production, on this machine."""
