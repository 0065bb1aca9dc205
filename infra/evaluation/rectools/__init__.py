"""RecTools' transformers, in an environment of their own: a peer of benches and a row of tables.

peer     makes the environment; a model in a process of it, which learns and lists when it is told
worker   that process; imports nothing of moonlark
split    events and histories as files, and what lists are worth
curve    NDCG@10 by training time
course   a peer that draws it, on a leave-one-out split
"""
