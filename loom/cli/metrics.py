"""The metrics of a project on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from loom.cli.shared import Command, Reply, answer

if TYPE_CHECKING:
    from loom.graph.front import Loom
    from loom.orchestration.metrics import Metric


@click.command(cls=Command)
def metrics() -> None:
    """What is counted and measured of the project, in the text form that Prometheus reads."""
    found: list[Metric] = []

    async def work(loom: Loom) -> Reply:
        from loom.orchestration.metrics import measured

        found.extend(await measured([loom]))
        rows = [
            {"name": f"{metric.name}{suffix}", "labels": dict(labels), "value": value}
            for metric in found
            for labels, suffix, value in metric.samples
        ]
        return {"metrics": rows, "count": len(rows)}

    def lines(reply: Reply) -> Iterator[str]:
        from loom.orchestration.metrics import text

        yield from text(found).splitlines()

    answer(work, lines)
