"""What was tried instead of what ships, and what it was worth: `python -m infra.bench.ablations`.

variants   the rows of the table: what each changes
models     user encoders and losses that differ from the shipped ones
ranker     fits a variant, and answers by torch instead of the fold
texts      other cleanings of the texts that BERT reads
"""
