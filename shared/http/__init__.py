"""The common part of the HTTP services: app, access, problems, health, TLS, server."""
