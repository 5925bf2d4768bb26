"""What Celery is told, on both sides."""

from pathlib import Path

import pytest
from celery.app.utils import find_app

from woolly_worker.ledger import keys
from woolly_worker.ledger.records import Bell, BenchmarkCall
from woolly_worker.ledger.server import free_port
from woolly_worker.queue.app import create_app, create_worker_app
from woolly_worker.settings import WorkerSettings


def test_a_worker_consumes_the_queue_of_its_model_only() -> None:
    settings = WorkerSettings(model=Path("x.gguf"), model_name="acme/llama:8b", threads=1, drain_seconds=7)
    app = create_worker_app(settings)
    assert sorted(app.amqp.queues.consume_from) == ["m.acme/llama:8b"]
    assert app.conf.worker_soft_shutdown_timeout == 7


def test_a_bell_arrives_where_the_ledger_looks_for_it(redis_url: str) -> None:
    app = create_app(redis_url)
    with app.connection_for_read() as connection:
        client = connection.default_channel.client
        app.send_task(**Bell("a-job", "tiny", number=2).send_task_options())
        app.send_task(**BenchmarkCall("a-call", "tiny", "matrix_multiplication", 1).send_task_options())
        (message,) = client.lrange(keys.bells("tiny"), 0, -1)
        text = message.decode()
        assert '"id": "a-job.2"' in text
        assert '"argsrepr": "(\'a-job\',)"' in text
        assert '"shadow": "generate[tiny]"' in text
        (message,) = client.lrange(keys.benchmarks("tiny"), 0, -1)
        assert '"id": "a-call"' in message.decode()
    app.close()


def test_a_worker_asks_for_redis_every_few_seconds_however_long_it_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Over(Exception):
        pass

    pauses: list[float] = []

    def told(error: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 20:
            raise Over

    monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)
    settings = WorkerSettings(model=Path("x.gguf"), threads=1, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    connection = create_worker_app(settings).connection_for_read()
    with pytest.raises(Over):
        connection.ensure_connection(told)
    assert max(pauses) <= 3


def test_flowers_app_is_made_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOOLLY_REDIS_URL", "redis://somewhere:1/2")
    app = find_app("woolly_worker.queue.app")
    assert app.conf.broker_url == "redis://somewhere:1/2"
    assert app.conf.broker_transport_options["priority_steps"] == [0, 1]
    assert app.conf.broker_connection_max_retries is None
