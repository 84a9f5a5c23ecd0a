"""Learning in the lobby's dynamics: forecasts, the search of the rule, the roll-outs that score."""
