"""What every service stands on: the pure core, the messages, the bus, policies and settings."""
