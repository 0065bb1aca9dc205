"""Of all tests: no example has a deadline, for a first one may compile a kernel."""

from hypothesis import settings

settings.register_profile("moonlark", deadline=None)
settings.load_profile("moonlark")
