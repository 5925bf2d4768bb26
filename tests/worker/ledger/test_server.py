"""The embedded server: found, launched, kept on disk, and gone when its owner is gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from redis.exceptions import ResponseError
from scripted import eventually

from woolly_worker.contract.errors import InternalError, LedgerUnavailable
from woolly_worker.ledger import server
from woolly_worker.ledger.connection import check_server, connect, translated_errors
from woolly_worker.ledger.server import EmbeddedServer, ServerProgram, find_program, server_argv


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_jobs_outlive_a_restart_of_the_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as first, closing(connect(first.url)) as client:
        client.set("kept", "yes")
        config = client.config_get("*")
        assert config["appendonly"] == "yes"
        assert config["maxmemory-policy"] == "noeviction"
        assert config["bind"] == "127.0.0.1"
    assert wait_until_gone(first.pid)
    with EmbeddedServer(tmp_path) as second, closing(connect(second.url)) as client:
        assert client.get("kept") == "yes"
    second.stop()  # twice is fine


def test_a_subscriber_that_never_reads_is_let_go(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as running, closing(connect(running.url)) as client, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect(("127.0.0.1", running.port))
        deaf.sendall(b"SUBSCRIBE news\r\n")
        eventually(lambda: client.client_list(_type="pubsub"))
        most_unread = 0
        while subscribers := client.client_list(_type="pubsub"):
            most_unread = max(most_unread, *(int(subscriber["omem"]) for subscriber in subscribers))
            assert most_unread < 10_000_000
            client.publish("news", 10_000 * "x")
        assert most_unread > 1_000_000  # it may be late


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path), pytest.raises(LedgerUnavailable, match="already uses"):
        EmbeddedServer(tmp_path)


def test_a_taken_port_is_an_error_with_the_servers_own_words(tmp_path: Path) -> None:
    with (
        EmbeddedServer(tmp_path / "a") as first,
        pytest.raises(LedgerUnavailable, match=r"ended at once: .*Failed listening"),
    ):
        EmbeddedServer(tmp_path / "b", port=first.port)


def test_it_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from woolly_worker.ledger.server import EmbeddedServer\n"
        "server = EmbeddedServer(Path(sys.argv[1])); print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
        os.kill(owner.pid, signal.SIGKILL)
    assert wait_until_gone(pid)


def test_the_error_names_the_three_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LedgerUnavailable) as caught:
        find_program()
    for words in ("WOOLLY_REDIS_URL", "woolly[redis]", "valkey-server or redis-server 6.2", "5.0.7"):
        assert words in caught.value.message


def test_a_program_on_path_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = find_program()
    (tmp_path / "valkey-server").symlink_to(wheel.path)
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_program()
    assert found == ServerProgram(tmp_path / "valkey-server", wheel.version, "PATH")
    assert "--appendonly" in server_argv(found, port=1, data_dir=tmp_path)


def test_a_server_that_is_too_old_is_refused_with_both_versions(
    monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.setattr("woolly_worker.ledger.connection.MINIMUM_SERVER_VERSION", (99, 0))
    with closing(connect(redis_url)) as client, pytest.raises(LedgerUnavailable, match=r"speaks Redis .*needs 99\.0"):
        check_server(client)


@pytest.mark.parametrize(
    "said",
    [
        "LOADING Redis is loading the dataset in memory",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist to disk.",
        "BUSY Redis is busy running a script.",
        "Error running script (call to f_0a): @user_script:7: @user_script: 7: -OOM command not allowed",
        "Error running script (call to f_0a): @user_script:7: @user_script: 7: -READONLY You can't write.",
    ],
)
def test_a_state_of_the_server_is_no_bug_of_a_script(said: str) -> None:
    with pytest.raises(LedgerUnavailable), translated_errors():
        raise ResponseError(said)


@pytest.mark.parametrize(
    "said",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "BUSYGROUP Consumer Group name already exists",
        "Error running script (call to f_0a): @user_script:7: user_script:7: a job cannot go from OOM to BUSY",
    ],
)
def test_a_bug_of_a_script_is_no_state_of_the_server(said: str) -> None:
    with pytest.raises(InternalError), translated_errors():
        raise ResponseError(said)
