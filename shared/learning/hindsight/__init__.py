"""Hindsight fit of the nets: recorded and synthetic samples, and the optimizer."""
