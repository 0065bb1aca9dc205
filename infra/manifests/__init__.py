"""Checks of what deploys moonlark, for machines without Docker or Kubernetes (`make check`)."""
