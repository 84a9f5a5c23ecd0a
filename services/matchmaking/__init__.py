"""The matchmaking service: accepts demand reports over HTTP, and returns the newest."""
