"""How a generation answers, live: wiring only. What the night must replay lives in the shelves."""
