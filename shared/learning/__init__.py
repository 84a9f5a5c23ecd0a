"""The library that learns: policies from recorded demand, and which of them serves."""
