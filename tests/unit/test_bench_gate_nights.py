"""The section of ACCURACY.md on the gate says what came of each night, good or worse."""

from infra.bench.gate_nights import LOGS, WORSE, Found, Log, section


def test_a_worse_model_that_passed_and_a_good_one_that_did_not_are_told() -> None:
    said = dict.fromkeys(WORSE, "NDCG@10 of lists 0.01 against 0.10 of the live g2")
    said["re-ranking turned round"] = "**passed**"
    found = Found([0.1, 0.12], ["night 2: recall@100 0.9 is below 0.95"], said)
    text = section({"Made": (Log("Made", "made", 3, 12), found)})
    assert "| Made | 12 | 3 | 2 | 0.1000 to 0.1200 |" in text
    assert "| Made | re-ranking turned round | **passed** |" in text
    assert "Refused, Made, night 2: recall@100 0.9 is below 0.95" in text


def test_a_log_of_which_every_night_was_refused_has_no_figures() -> None:
    text = section({"Made": (Log("Made", "made", 1, 12), Found([], ["night 0: x"], {}))})
    assert "| Made | 12 | 1 | 0 |  |" in text


def test_rows_of_logs_that_were_not_measured_again_stay() -> None:
    ours, theirs = LOGS[0], LOGS[1]
    nights = Found([0.1, 0.2], [], dict.fromkeys(WORSE, "NDCG@10 fell"))
    before = section({log.title: (log, nights) for log in (ours, theirs)})
    after = section({ours.title: (ours, Found([0.3, 0.4], [], {"one": "no"}))}, before)
    rows = [line for line in after.splitlines() if line.startswith("| ")]
    assert sum(line.startswith(f"| {theirs.title} |") for line in rows) == 1 + len(WORSE)
    assert sum(line.startswith(f"| {ours.title} |") for line in rows) == 2
    assert "0.3000 to 0.4000" in after
