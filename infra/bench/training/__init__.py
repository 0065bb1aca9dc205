"""Parts of `infra.bench.train`."""
