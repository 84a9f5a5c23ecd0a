"""What can serve: nets, rules, mixtures of both; what they see and how they are kept."""
