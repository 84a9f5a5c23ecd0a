"""The prediction API: tells lobbies and autoscalers how many game servers to have."""
