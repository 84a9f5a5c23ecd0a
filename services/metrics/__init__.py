"""The metrics sidecar: transitions to Prometheus and CloudWatch."""
