"""Models of policies: nets, rules and mixtures of both; their features and checkpoints."""
