"""Policies as the services run them, where they are kept, and which one serves."""
