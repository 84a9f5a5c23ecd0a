"""The learning library: trains policies on recorded demand and selects the one that serves."""
