"""The parts of the bench `serve`: a made store, the stack and its floors, a sender, the phases."""
