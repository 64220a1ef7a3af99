"""What is recorded as traces where somebody records, and that nobody else pays for it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loom import tracing
from loom.graph.front import Loom
from loom.mcp.server import build
from tests.mcp.stdio import started
from tests.orchestration.conftest import Project, Work, bare, cli, in_environment

__all__ = ["bare", "cli"]

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recorded:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def named(self, name: str) -> list[ReadableSpan]:
        return [one for one in self._exporter.get_finished_spans() if one.name == name]

    def one(self, name: str) -> ReadableSpan:
        (found,) = self.named(name)
        return found

    @property
    def names(self) -> set[str]:
        return {one.name for one in self._exporter.get_finished_spans()}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Records, in this test alone."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return Recorded(exporter)


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def links(span: ReadableSpan) -> list[str]:
    found = [one.context for one in span.links]
    return [f"00-{one.trace_id:032x}-{one.span_id:016x}-{one.trace_flags:02x}" for one in found]


async def test_a_tool_call_has_its_transaction_and_what_became_of_it(loom: Loom, recorded: Recorded) -> None:
    async with Client(build(loom)) as client:
        await client.call_tool("loom_create", {"title": "A"})
        with pytest.raises(ToolError):
            await client.call_tool("loom_done", {"task_id": "loom-00000000"})
    call = next(one for one in recorded.named("tools/call loom_create") if one.kind is trace.SpanKind.SERVER)
    made = recorded.one("transaction create")
    assert made.parent is not None
    assert made.parent.span_id == call.get_span_context().span_id  # type: ignore[union-attr]
    assert cast("Any", made.attributes)["db.system.name"] == "postgresql"
    refused = recorded.one("transaction done")
    assert refused.status.is_ok is False


async def test_the_kinds_of_transactions_are_told_apart(loom: Loom, recorded: Recorded) -> None:
    task = await loom.create("A")
    await loom.claim(task.id)
    await loom.escalate(task.id, "Which?")
    await loom.resolve(task.id, "answer", note="this")
    await loom.sweep()
    await loom.transact(_nothing)
    kinds = {"create", "claim", "escalate", "resolve", "nothing"}
    assert recorded.names >= {f"transaction {kind}" for kind in kinds}


async def _nothing(tx: object) -> None:
    return None


async def test_attempts_are_linked_to_the_first(project_loom: Project, recorded: Recorded, tmp_path: Path) -> None:
    loom = project_loom()
    task = await loom.create("A")
    seen = tmp_path / "seen"
    script = f'echo "$TRACEPARENT" >> {seen}; test $(wc -l < {seen}) -gt 1'
    assert await Work(loom, script).finish() == []
    first, second = recorded.named(f"attempt {task.id}")
    assert links(first) == []
    assert links(second) == [traceparent(first)]
    assert seen.read_text().split() == [traceparent(first), traceparent(second)], "what it starts knows its span"
    attributes = [cast("Any", one.attributes) for one in (first, second)]
    assert [(one[tracing.ATTEMPT], one[tracing.TASK]) for one in attributes] == [(1, task.id), (2, task.id)]
    assert attributes[1][tracing.OUTCOME] == "done"
    claimed = await loom.create("B")
    with tracing.span("elsewhere") as elsewhere:
        await loom.claim(claimed.id)
        await loom.release(claimed.id)
    with tracing.span("later"):
        await loom.claim(claimed.id)
    assert elsewhere is not None
    assert links(recorded.one("later")) == [traceparent(recorded.one("elsewhere"))]


async def test_where_nobody_records_nothing_is_kept_and_nothing_made(loom: Loom) -> None:
    task = await loom.create("A")
    with tracing.span("x") as span:
        assert span is None
        await loom.claim(task.id)
    assert (tracing.current(), tracing.environment()) == (None, {})
    tracing.link(CALLER)
    await tracing.flush()
    kept = await loom.look(lambda connection: connection.fetchval("select count(*) from task_traces"))
    assert kept == 0


def test_a_process_without_the_api_does_not_load_it() -> None:
    code = "import sys, loom.graph.front, loom.tracing; print([m for m in sys.modules if 'opentelemetry' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


class _Collector(BaseHTTPRequestHandler):
    heard: list[Span]

    def do_POST(self) -> None:
        assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
        asked = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        for told in asked.resource_spans:
            assert "shop-loom" in [one.value.string_value for one in told.resource.attributes]
            self.heard += [span for scope in told.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Span]]]:
    """A collector of OTLP over HTTP, which knows its protocol, and the spans that it was sent."""
    heard: list[Span] = []
    handler = type("Handler", (_Collector,), {"heard": heard})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    thread.join()
    server.server_close()


def attributes(span: Span) -> dict[str, object]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


async def worked(loom: Loom, place: Path, **variables: str) -> bytes:
    """Has `loom work` do a task, with these variables; returns what it says on stderr."""
    task = await loom.create("A")
    with in_environment(loom.config) as env:
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loom", "work", "true", cwd=place, env=env | variables, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, err = await running.communicate()
    assert (await loom.get(task.id)).task.status == "done", err
    return err


async def test_a_long_process_sends_what_it_did_where_the_variables_say(
    loom: Loom, collector: tuple[str, list[Span]], tmp_path: Path
) -> None:
    endpoint, heard = collector
    said = await worked(loom, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SERVICE_NAME="shop-loom")
    names = {one.name for one in heard}
    assert names >= {"transaction claim", "transaction done"}, said
    (attempt,) = (one for one in heard if one.name.startswith("attempt "))
    told = attributes(attempt)
    assert (told[tracing.TASK], told[tracing.ATTEMPT], told[tracing.OUTCOME]) == (attempt.name[8:], 1, "done")
    assert 0 < attempt.start_time_unix_nano < attempt.end_time_unix_nano


async def test_a_collector_that_is_away_is_missed_by_nobody_who_did_not_ask(loom: Loom, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        away = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert b"export" not in await worked(loom, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=away)
    assert b"export" in await worked(loom, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=away, LOOM_LOG_LEVEL="INFO")


async def test_the_trace_of_a_caller_goes_on(loom: Loom, collector: tuple[str, list[Span]]) -> None:
    """Who asks over MCP names it in the key that is reserved for it."""
    endpoint, heard = collector
    with in_environment(loom.config) as env:
        named = {name: value for name, value in env.items() if name.startswith("LOOM_")}
    async with started(**named, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SERVICE_NAME="shop-loom") as server:
        await server.initialize()
        await server.call("loom_ready")  # with the project it begins to record
        asked = {"name": "loom_create", "arguments": {"title": "A"}, "_meta": {"traceparent": CALLER}}
        assert "error" not in await server.ask("tools/call", **asked)
        server.process.send_signal(signal.SIGTERM)
        await server.left()
    trace_id, span_id = (bytes.fromhex(part) for part in CALLER.split("-")[1:3])
    (call,) = (one for one in heard if one.name == "tools/call loom_create" and one.parent_span_id == span_id)
    assert call.trace_id == trace_id
    assert trace_id == next(one.trace_id for one in heard if one.name == "transaction create")


async def test_a_collector_that_hangs_keeps_no_process_from_its_end(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = Event()
    monkeypatch.setattr(TracerProvider, "force_flush", lambda provider: over.wait())
    async with asyncio.timeout(30):
        await tracing.flush()
    over.set()


def test_what_is_missing_or_not_asked_for_is_said_or_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    tracing.begin()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing.begin()
    assert not caplog.records
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setattr(tracing, "_NEEDED", ("opentelemetry.sdk", "no_such.package"))
    tracing.begin()
    assert "install loom-agents[otel]" in caplog.text
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
