"""The HTTP service: `POST /recommend` from a run directory."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

from foundation.config import Config
from foundation.errors import UserError
from foundation.progress import say

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException
except ImportError as error:
    raise UserError(f"the HTTP service needs fastapi and uvicorn ({error}).", "pip install -e '.[serve]'") from error

from pydantic import Field

from serving.funnel import Funnel


class Request(Config):
    """The body of `POST /recommend`. user: an id of the log, or null for a newcomer. size: items wanted (default: as
    the job says). block: ids never to show."""

    user: int | str | None = None
    size: int | None = Field(None, ge=1, le=1_000)
    block: list[int | str] = Field(default=[], max_length=10_000)


def application(funnel: Funnel) -> FastAPI:
    """The service over a loaded funnel. One answer is computed at a time: the models use every core by themselves."""
    app = FastAPI(title="headrace", description="Slates from a trained funnel.")
    one_at_a_time = threading.Lock()

    @app.post("/recommend")
    def recommend(request: Request) -> dict[str, Any]:
        """A slate, best first, with each stage's counts, scores and milliseconds. 404: unknown user or blocked item."""
        try:
            with one_at_a_time:
                return funnel.recommend(request.user, request.size, request.block).document()
        except UserError as error:
            raise HTTPException(404, f"{error.message} {error.remedy}") from error

    @app.get("/health")
    def health() -> dict[str, Any]:
        """What is served."""
        return {
            "name": funnel.card.name,
            "now": funnel.card.now,
            "users": len(funnel.space.users) - 1,
            "items": len(funnel.space.items),
        }

    return app


def serve(run: str | Path, host: str, port: int) -> None:
    """Serves until interrupted.

    Raises:
      UserError: there is no bundle, or the address cannot be listened on.
      KeyboardInterrupt: on Ctrl-C, after open requests are answered.
    """
    app = application(Funnel.load(run))
    listener = _listen(host, port)
    address, bound = listener.getsockname()[:2]
    say(f"serving {run} at http://{f'[{address}]' if ':' in address else address}:{bound} (Ctrl-C stops)")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(f"{host}:{port}: cannot listen there ({error}).", "Choose another --host or --port.") from error
    return listener
