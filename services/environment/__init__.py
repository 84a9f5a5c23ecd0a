"""The environment worker: steps every fleet on its own clock, and decides its targets."""
