"""Learning for the lobby's dynamics: forecasts, search of the rule, scoring by roll-outs."""
