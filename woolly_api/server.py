"""Runs the app under uvicorn, with an end that open streams notice.

uvicorn waits for open connections when it stops. Streams of jobs may last for hours, so they are told first; their
readers resume elsewhere with Last-Event-ID. Running completions get `shutdown_grace_seconds`.
"""

import socket
from contextlib import suppress
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from woolly_api.app import create_app
from woolly_api.connection import Connection
from woolly_api.services import Services
from woolly_api.settings import ApiSettings
from woolly_api.telemetry import configure_logging


class ApiServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.app = app

    @property
    def bound_port(self) -> int:
        """The port it listens on; tells which one was free if the setting was 0. Valid once `started`."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        services = getattr(self.app.state, "services", None)
        if isinstance(services, Services):
            services.stopping.set()
        await super().shutdown(sockets)


def build_server(settings: ApiSettings) -> ApiServer:
    """A server to `run()`. It logs through whatever logging the process has configured."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=cast(Any, partial(Connection, deaf_seconds=settings.deaf_client_seconds)),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # telemetry.py writes a line per request, without the query
        timeout_graceful_shutdown=settings.shutdown_grace_seconds,
        server_header=False,
    )
    return ApiServer(config, app)


def serve(settings: ApiSettings) -> None:
    """Blocks until SIGINT or SIGTERM. The entry point of `woolly api`."""
    configure_logging(settings)
    with suppress(KeyboardInterrupt):  # uvicorn has shut down by then and raises it again
        build_server(settings).run()
