"""The trainer: an RQ worker that learns a policy from recorded demand, exports and publishes it."""
