"""Redis behind a socket of this machine, for the ledger's clients and for kombu alike."""

import asyncio
from contextlib import closing
from pathlib import Path

from redis_servers import answers, launched, wait_for

from woolly_worker.ledger import keys
from woolly_worker.ledger.address import RedisAddress
from woolly_worker.ledger.connection import connect, connect_async
from woolly_worker.ledger.records import Bell
from woolly_worker.ledger.server import find_program
from woolly_worker.queue.app import create_app


def test_one_url_reaches_it_from_everywhere(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/redis.sock?db=2"
    argv = [str(find_program().path), "--port", "0", "--unixsocket", f"{tmp_path}/redis.sock", "--save", ""]

    async def ping() -> bool:
        client = connect_async(RedisAddress.parse(url).shown)
        try:
            return bool(await client.ping())
        finally:
            await client.aclose()

    with launched(argv, tmp_path), connect(url) as client:
        wait_for(lambda: answers(client))
        assert asyncio.run(ping())
        with closing(create_app(url)) as app:
            app.send_task(**Bell("j", "tiny", 1).send_task_options())
        assert client.llen(keys.bells("tiny")) == 1
