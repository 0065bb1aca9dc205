"""RecTools' transformers, in an environment of their own: a peer of benches and a row of tables.

peer     makes the environment, and trains a model in a process of it, epoch by epoch
worker   that process; imports nothing of moonlark
split    a split as a file, and lists as a ranker
curve    NDCG@10 by training time
"""
