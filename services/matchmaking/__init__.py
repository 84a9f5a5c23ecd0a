"""The matchmaking service: takes demand over HTTP and answers the newest."""
