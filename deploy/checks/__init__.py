"""`python -m deploy.checks`: whether Kubernetes, KEDA, Agones and KubeRay take every manifest."""
