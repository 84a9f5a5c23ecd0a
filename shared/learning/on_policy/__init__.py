"""On-policy training, as in the notebook: PPO on the live fleet's own transitions."""
