"""What is wrong now: looks at the database, the files and the API, and names the runbook.

findings     what a look comes to
store        the database, the live pointer, leases, nights, parity, locks
artefacts    the files of the generations that users are answered from, and their disk
day          the API over HTTP, as users and probes ask it
"""
