"""The trainer: an RQ worker that trains, selects, exports and publishes policies."""
