"""The parts of the bench `train`: the split, the peer in its own environment, our epochs, the curves."""
