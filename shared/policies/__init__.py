"""Policies as the services run them, the policy store, and the fleets' champions."""
