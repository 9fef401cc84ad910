"""`geomae ui`: the web interface of MLflow for the tracking store."""

from typing import Annotated

import typer

from geomae.commands.options import TrackingUri, exit_with


def ui(
    tracking_uri: TrackingUri = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
) -> None:
    """Start the web interface of MLflow for the tracking store."""
    exit_with(lambda: run(tracking_uri, host, port))


def run(tracking_uri: str | None, host: str, port: int) -> int:
    """Serve until stopped. Returns the exit code of the server, or 128 plus the number of the signal."""
    from geomae.tracking import resolve_uri, ui

    return ui(resolve_uri(tracking_uri), host, port)
