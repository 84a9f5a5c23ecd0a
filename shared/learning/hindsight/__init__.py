"""Fitting nets by hindsight: recorded and synthetic samples, and the optimizer."""
