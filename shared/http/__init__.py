"""What the HTTP services share: the app, access, problems, health, TLS, the server."""
