"""The on-disk index of a generation and its delta: pure faiss, numpy and pyarrow.

A generation is a folder (FORMAT.md). The night writes it with `writer`, `items`, `texts` and seals
it with `manifest`; the day opens it with `reader`, lays a `delta` over it and asks `search`.
"""
