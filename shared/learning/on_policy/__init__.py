"""The notebook's way: PPO on what the live fleet has done itself."""
