"""AWS's standard variables."""

import os

REGION_OF_AN_ENDPOINT = "us-east-1"
"""For signatures, where an AWS endpoint is set and no region."""
SECRETS_OF_AWS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def aws_endpoint(service: str) -> str | None:
    """Where AWS's standard variables say that a service is, instead of at AWS."""
    own = os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}")
    return own or os.environ.get("AWS_ENDPOINT_URL") or None


def aws_region(service: str) -> str | None:
    """The region by AWS's standard variables; None where neither it nor an endpoint is set."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return region or (REGION_OF_AN_ENDPOINT if aws_endpoint(service) else None)
