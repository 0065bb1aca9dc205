"""Deterministic simulation: the shipped code under a virtual clock, a faulty store and a seed.

    moonlark simulate --seeds 2000              # many seeds, all cores
    moonlark simulate --first 17 --seeds 1 -v   # one seed again, step by step

A seed is one world: a SQLite file, two or three replicas, clients, nights, an on-call person, and
whatever goes wrong. Every transaction of the shipped code begins and ends with a choice of who goes
on, made by the seed; so one seed is one history, and a failing one replays exactly.

Reading order: `scheduler` (who runs when), `faulty_store` (what the database does to them),
`world` (what there is), `replica`, `clients`, `nights`, `chaos` (who acts), `truth` (what is right,
worked out without the shipped code), `answers` and `ending` (what is compared), `run` (a seed,
many seeds).
"""
