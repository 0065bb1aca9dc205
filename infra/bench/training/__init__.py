"""Our side of the bench `train`, epoch by epoch, and its plot.

The peer is `infra.evaluation.rectools`.
"""
