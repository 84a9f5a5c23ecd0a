"""The command line, `autopilot`."""
