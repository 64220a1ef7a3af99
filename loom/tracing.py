"""Traces, through the API of OpenTelemetry: what this process does as spans, where something in it records them.

A process that has not loaded that API, such as a short command, pays nothing, and one without an SDK next to nothing.
Loom's own long processes set one up where the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT and others) ask for it
and its packages are there (`loom-agents[otel]`); who embeds Loom sets up his own. A tool call has FastMCP's span.

The names below that are not Loom's are those of OpenTelemetry's conventions for generative AI, which are still in
development.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

OPERATION, AGENT = "gen_ai.operation.name", "gen_ai.agent.name"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
INVOKE_AGENT = "invoke_agent"
TASK, ATTEMPT, OUTCOME = "loom.task.id", "loom.task.attempt", "loom.outcome"

_API = "opentelemetry.trace"
_ASKED_FOR = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_LAST_MOMENT = 1.0  # seconds for what is recorded to be sent when a process ends
_FRONT = "loom.graph.front."
_LOG = logging.getLogger(__name__)

Attributes = Mapping[str, str | int]


@contextmanager
def span(name: str, attributes: Attributes | None = None) -> Iterator[Span | None]:
    """Something that takes its time; None where nobody records it. An error that leaves it is recorded with it."""
    tracer = _tracer()
    if tracer is None:
        yield None
        return
    with tracer.start_as_current_span(name, attributes=dict(attributes or {})) as made:
        yield made


def recorded() -> bool:
    """Whether what this process does is recorded as spans."""
    return _tracer() is not None


class transaction:  # noqa: N801 - read as a statement: `with transaction(...):`
    """A transaction, as a span; its kind is the name of the work that it does."""

    __slots__ = ("_span", "_work")

    def __init__(self, work: Callable[..., Any] | str) -> None:
        self._work = work
        self._span: AbstractContextManager[Span | None] | None = None

    def __enter__(self) -> None:
        if _tracer() is not None:  # else its name need not be found out
            kind = self._work if isinstance(self._work, str) else _kind(self._work)
            self._span = span(f"transaction {kind}", {"db.system.name": "postgresql"})
            self._span.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return None if self._span is None else self._span.__exit__(*error)


def current() -> str | None:
    """The span that goes on, as a W3C `traceparent`; None where none is recorded."""
    if _tracer() is None:
        return None
    going_on = sys.modules[_API].get_current_span()
    if not going_on.is_recording():
        return None
    context = going_on.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def link(traceparent: str) -> None:
    """Links the span that goes on to another one, such as that of an earlier attempt."""
    if _tracer() is None:
        return
    api = sys.modules[_API]
    _, trace_id, span_id, flags = traceparent.split("-")
    other = api.SpanContext(int(trace_id, 16), int(span_id, 16), True, api.TraceFlags(int(flags, 16)))
    api.get_current_span().add_link(other)


def environment() -> dict[str, str]:
    """What tells a command that is started now which span it belongs to."""
    traceparent = current()
    return {} if traceparent is None else {"TRACEPARENT": traceparent}


def asked(environ: Mapping[str, str]) -> dict[str, str]:
    """Those of some variables that say where traces go, and how; none where they ask for none, or the packages for
    them are missing."""
    asks = _asks(environ) and _are_there(_NEEDED)
    return {name: environ[name] for name in environ if name.startswith("OTEL_")} if asks else {}


def begin() -> None:
    """Has this process record, where the standard variables ask for it and nobody else does so yet."""
    if not _asks(os.environ) or _tracer() is not None:
        return
    if not _are_there(_NEEDED):
        _LOG.warning("OTEL_* asks for traces, and the packages for them are missing: install loom-agents[otel].")
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "loom"}
    provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)  # see `flush`
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    if not _LOG.isEnabledFor(logging.INFO):  # that a collector is away changes nothing here, and is said each time
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


async def flush() -> None:
    """Sends what is recorded before the process ends, if that takes but a moment: nobody waits for a collector."""
    send = getattr(sys.modules[_API].get_tracer_provider(), "force_flush", None) if _tracer() is not None else None
    if send is None:
        return
    loop, sent = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        send()
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(sent.set)

    Thread(target=work, daemon=True).start()
    with suppress(TimeoutError):
        await asyncio.wait_for(sent.wait(), _LAST_MOMENT)


def _tracer() -> Tracer | None:
    api = sys.modules.get(_API)
    known = getattr(api, "get_tracer_provider", None)  # not yet while a thread that reads ahead imports it
    if api is None or known is None:
        return None
    provider = known()
    if isinstance(provider, api.ProxyTracerProvider):  # which stands there until there is another
        return None
    return _tracer_of(provider)


@cache
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("loom")


def _kind(work: Callable[..., Any]) -> str:
    """The name of a function, and of the method that one without a name stands in: `create`, `Record.finish`. The
    methods of the front are called by their own names."""
    named = work if hasattr(work, "__qualname__") else getattr(work, "func", None)
    parts = [part.lstrip("_") for part in getattr(named, "__qualname__", "work").split(".") if part[0] != "<"]
    if getattr(named, "__module__", "").startswith(_FRONT):
        del parts[0]
    return ".".join(parts) or "work"


def _asks(environ: Mapping[str, str]) -> bool:
    named = any(environ.get(name, "none") != "none" for name in _ASKED_FOR)
    return named and environ.get("OTEL_SDK_DISABLED", "").lower() != "true"


def _are_there(packages: Iterable[str]) -> bool:
    try:
        return all(find_spec(one) is not None for one in packages)
    except ModuleNotFoundError:  # one above it is missing
        return False
