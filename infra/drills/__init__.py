"""Drills: real clients, a fault or a switch, and a check of every answer against what was promised.

    figures      what a scenario comes to, as a table and as JSON
    catalog      a made-up catalog; words stand in for BERT, so a drill needs no model
    generation   a generation of the present catalog, written by the shipped code
    app          the shipped gateway with the words encoder beside it
    stack        store, Ray, Serve and HAProxy in a folder of their own
    record       what was asked, acknowledged and answered
    traffic      the clients: plain HTTP, no retries
    checker      the record against the log, the catalog and a brute-force model
    windows      latencies by what went on meanwhile
    switch       scenario: generations are published and rolled back under traffic
    sickness     the switch that makes a deployment sick; sick_app has the shipped ones behind it
    sick_rounds  rounds of dead and slow, and the recovery
    shard_gone   scenario: a deployment of shards is dead or slow
    encoder_gone scenario: the text encoder is dead or slow
    load         open-loop load, from a process of its own
    overload     scenario: three times the capacity
    oracle       scenario deltas: the brute-force twin of a catalog
    deltas       scenario: items change at random beside searches, switches and restarts
    local        a store, and replicas of the API on it, in this process and without Ray
    small_night  a whole night on a small catalog in seconds: the shipped steps, without a cluster
    damage       a byte that flips, an end that is cut off
    failing      the n-th statement, commit, fsync, rename or opening fails
    retry_storm  scenario: each event sent one to five times, at once, anywhere
    corrupt      scenario: damage in every file of a generation, in the ledger and its key
    bad_generation  scenario: what a night may spoil, and what must pass
    full_disk, io_error  scenarios: writes of the database and of a night fail
    ward         a stack on Postgres with a Prometheus that scrapes it
    with_words   the shipped `moonlark`, with words in place of BERT
    faults       one for each alert whose runbook is tried; night_faults, proxy_faults: of those
    runbooks     scenario: the fault, the alert, the runbook's commands, no alert
    made_bert    a BERT of random weights, for jobs that are the shipped ones
    airflow_nights  a small catalog's nights on a real Airflow and a real Ray
    submitted    the jobs of that Ray, by its own Jobs API
    kill_airflow scenario: processes of Airflow, and the Ray head, are killed amid a night
    standalone   scenario: it runs by itself; beside_night: the other DAGs, too
    erase        scenario: replay, rollback, a night and a restore bring nobody back

A scenario is a module with a function `run(Options) -> Figures`, named in `infra.cli.drill`.
"""
