"""Public data sets and models by name: `python -m infra.datasets` fetches the demo's."""
