"""The ledger file: one key, whole lines, and nothing lost by a crash amid one."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sql.erasure_ledger import KEY_NAME, LEDGER_NAME, Erased, ErasureKey, Ledger
from sql.errors import ErasureKeyLost, StoreUnavailable


def test_all_who_begin_at_once_get_one_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: ErasureKey.open(root), range(32)))
    assert len({key.hmac_of("u") for key in keys}) == 1
    assert stat.S_IMODE((root / KEY_NAME).stat().st_mode) == 0o600
    assert [path.name for path in root.iterdir()] == [KEY_NAME]  # nothing temporary is left
    assert keys[0].hmac_of("u") != keys[0].hmac_of("v")
    assert ErasureKey.open(tmp_path / "other").hmac_of("u") != keys[0].hmac_of("u")
    assert repr(keys[0]) == "ErasureKey()"


def test_lines_come_back_in_order_and_a_torn_one_takes_no_other_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger.open(tmp_path)
    assert ledger.read() == []
    one, two = Erased("e1", "h1", 1), Erased("e2", "h2", 2)
    ledger.append(one)
    with ledger.path.open("ab") as file:
        file.write(b'{"erasure_id": "torn')
    assert ledger.read() == [one]
    ledger.append(two)
    assert Ledger.open(tmp_path).read() == [one, two]
    assert f"{LEDGER_NAME}:2" in caplog.text


def test_a_flipped_byte_anywhere_in_a_line_is_found_and_takes_no_other_with_it(
    tmp_path: Path,
) -> None:
    ledger = Ledger.open(tmp_path)
    entries = [Erased(f"e{n}", "a" * 64, 1_700_000_000_000 + n) for n in range(3)]
    for entry in entries:
        ledger.append(entry)
    whole = ledger.path.read_bytes()
    second = whole.index(b"\n") + 1
    third = whole.index(b"\n", second) + 1
    for place in range(second, third - 1):
        for bit in (1, 0x20, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= bit
            ledger.path.write_bytes(damaged)
            sound, found = ledger.examine()
            assert sound == [entries[0], entries[2]], (place, bit)
            assert found[0].startswith(f"{ledger.path}:2 (byte "), (place, bit)
    ledger.path.write_bytes(whole)
    key = tmp_path / KEY_NAME
    altered = bytearray(key.read_bytes())
    altered[5] ^= 1
    key.write_bytes(altered)
    with pytest.raises(ErasureKeyLost, match=KEY_NAME):
        Ledger.open(tmp_path).examine()
    key.write_bytes(altered[:-1])
    with pytest.raises(ErasureKeyLost, match="31 bytes"):
        Ledger.open(tmp_path)


def test_writers_at_once_lose_no_line(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    entries = [Erased(f"e{n}", "h" * 64, n) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ledger.append, entries))
    assert sorted(ledger.read()) == sorted(entries)


def test_a_ledger_without_its_key_is_refused(tmp_path: Path) -> None:
    Ledger.open(tmp_path).append(Erased("e1", "h1", 1))
    (tmp_path / KEY_NAME).unlink()
    with pytest.raises(ErasureKeyLost) as caught:
        Ledger.open(tmp_path)
    assert KEY_NAME in str(caught.value)
    with pytest.raises(ValueError, match="32"):
        ErasureKey(b"short")


def test_a_disk_that_does_not_take_the_line_is_told(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    ledger.path.mkdir()
    with pytest.raises(StoreUnavailable):
        ledger.append(Erased("e1", "h1", 1))
