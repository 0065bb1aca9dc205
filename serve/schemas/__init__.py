"""The bodies of the API: what is accepted and what is answered, a module a topic."""
