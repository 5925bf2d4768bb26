"""What a server says about its append-only file, as far as it may be asked."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from woolly_worker.ledger.connection import connect
from woolly_worker.ledger.persistence import UNKNOWN, Persistence, policy_of, read_persistence
from woolly_worker.ledger.server import EmbeddedServer


@pytest.mark.parametrize(
    ("aof", "fsync", "save", "found"),
    [
        (1, "always", "", ("yes", "always", "nothing")),
        (1, "everysec", "3600 1", ("yes", "everysec", "the last second")),
        (1, "no", "", ("yes", "no", "the last half minute")),
        (1, None, None, ("yes", UNKNOWN, UNKNOWN)),
        (0, "everysec", "3600 1 300 100", ("no", "everysec", "everything since the last save")),
        (0, "everysec", "", ("no", "everysec", "everything")),
        (0, None, None, ("no", UNKNOWN, "everything since the last save")),
        (None, None, None, (UNKNOWN, UNKNOWN, UNKNOWN)),
    ],
)
def test_what_may_be_lost(aof: int | None, fsync: str | None, save: str | None, found: tuple[str, str, str]) -> None:
    policy = policy_of(aof, fsync, save, None)
    assert (policy.appendonly, policy.appendfsync, policy.may_lose) == found
    assert policy.keeps_jobs is (found[0] != "no")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path, appendfsync="always") as server:
        yield server


def test_it_is_read_from_the_server(server: EmbeddedServer) -> None:
    with closing(connect(server.url)) as client:
        assert read_persistence(client) == Persistence("yes", "always", "nothing")
        client.config_set("appendonly", "no")
        assert read_persistence(client) == Persistence("no", "always", "everything")


def test_what_an_acl_forbids_is_unknown_and_why(server: EmbeddedServer) -> None:
    def read(*commands: str) -> Persistence:
        with closing(connect(server.url)) as admin:
            admin.acl_setuser("lodger", enabled=True, nopass=True, keys=["*"], commands=["+@all", *commands])
        with closing(connect(server.url.replace("//", "//lodger:x@"))) as client:
            return read_persistence(client)

    no_config = read("-config")
    assert no_config == Persistence("yes", UNKNOWN, UNKNOWN, "the server does not permit CONFIG GET")
    assert no_config.fields()["why"] == "the server does not permit CONFIG GET"
    nothing = read("-config", "-info")
    assert nothing == Persistence(UNKNOWN, UNKNOWN, UNKNOWN, "the server does not permit INFO")
    assert nothing.keeps_jobs  # nobody said otherwise
