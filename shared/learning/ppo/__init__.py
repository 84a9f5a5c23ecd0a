"""RLlib's PPO on the replay of recorded demand."""
