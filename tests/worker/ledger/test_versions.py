"""Old and new programs at one Redis."""

import pytest

from woolly_worker.contract.errors import LedgerVersionMismatch
from woolly_worker.ledger import keys, versions
from woolly_worker.ledger.ledger import Ledger
from woolly_worker.ledger.versions import LEDGER_VERSION


def number(ledger: Ledger) -> object:
    return ledger.client.get(keys.LEDGER_VERSION)


def test_the_first_writes_the_number_and_the_next_agree(ledger: Ledger) -> None:
    versions.check_now(ledger.client)  # nobody has started yet
    versions.agree(ledger.client)
    versions.agree(ledger.client)
    versions.check_now(ledger.client)
    assert number(ledger) == str(LEDGER_VERSION)


@pytest.mark.parametrize("found", [str(LEDGER_VERSION + 1), "0", "x", "-1", "1" * 30])
def test_another_number_is_refused_and_left(ledger: Ledger, found: str) -> None:
    ledger.client.set(keys.LEDGER_VERSION, found)
    for check in (versions.agree, versions.check_now):
        with pytest.raises(LedgerVersionMismatch, match=f"this program works with version {LEDGER_VERSION}"):
            check(ledger.client)
    assert number(ledger) == found


def test_an_older_ledger_is_migrated_step_by_step_where_the_way_is_known(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    ledger.client.set(keys.LEDGER_VERSION, "1")
    monkeypatch.setattr(versions, "LEDGER_VERSION", 3)
    monkeypatch.setitem(versions.MIGRATIONS, 2, lambda client: done.append(2))
    with pytest.raises(LedgerVersionMismatch, match="version 1, this program works with version 3: it knows no way"):
        versions.agree(ledger.client)
    monkeypatch.setitem(versions.MIGRATIONS, 1, lambda client: done.append(1))
    versions.agree(ledger.client)
    assert done == [1, 2]
    assert number(ledger) == "3"
