"""The HTTP routes under /v1, a module a noun. They parse, call and answer; nothing else."""
