"""The parts of the bench `train`: the split, the peer and its environment, our epochs, curves."""
