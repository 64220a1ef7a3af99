"""A local HTTP server that speaks the two APIs, as streams, and misbehaves as told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Turn:
    """One answer: its text, or an error; `cut` ends the stream before it is over, `stop` says why the model stopped."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "no"
    stop: str = ""
    cut: bool = False
    sleep: float = 0.0
    raw: bytes | None = None


@dataclass
class Api:
    """The server: where it is, what it will say (the last again and again), and what it was asked."""

    url: str
    turns: list[Turn] = field(default_factory=lambda: [Turn('{"a": 1}')])
    requests: list[dict[str, Any]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Api]:
    """A server for a while."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            given = self.headers.get("x-api-key") or self.headers.get("authorization")
            api.requests.append({"path": self.path, "key": given, **body})
            api.at.append(time.monotonic())
            turn = api.turns.pop(0) if len(api.turns) > 1 else api.turns[0]
            time.sleep(turn.sleep)
            try:
                self._answer(turn)
            except OSError:  # the client has gone
                self.close_connection = True

        def _answer(self, turn: Turn) -> None:
            if turn.status != 200:
                text = json.dumps({"type": "error", "error": {"type": "some_error", "message": turn.message}}).encode()
                self.send_response(turn.status)
                for name, value in {
                    "content-type": "application/json",
                    "content-length": str(len(text)),
                    **turn.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True
            if turn.raw is not None:
                self.wfile.write(turn.raw)
                return
            anthropic = self.path.endswith("/messages")
            events = list(_anthropic(turn) if anthropic else _openai(turn))
            for name, data in events[: len(events) // 2] if turn.cut else events:
                if name:
                    self.wfile.write(f"event: {name}\n".encode())
                self.wfile.write(f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api = Api(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _parts(text: str) -> Iterator[str]:
    step = max(len(text) // 5, 1)
    yield from (text[at : at + step] for at in range(0, len(text), step))


def _anthropic(turn: Turn) -> Iterator[tuple[str, Any]]:
    usage = {"input_tokens": 11, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "m", "type": "message", "role": "assistant", "model": "claude-test", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    yield "message_start", {"type": "message_start", "message": message}
    block = {"type": "tool_use", "id": "t", "name": "answer", "input": {}}
    yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": block}
    yield "ping", {"type": "ping"}
    for part in _parts(turn.text):
        delta = {"type": "input_json_delta", "partial_json": part}
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
    yield "content_block_stop", {"type": "content_block_stop", "index": 0}
    ended = {"stop_reason": turn.stop or "tool_use", "stop_sequence": None}
    yield "message_delta", {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 22}}
    yield "message_stop", {"type": "message_stop"}


def _openai(turn: Turn) -> Iterator[tuple[str, Any]]:
    def chunk(delta: dict[str, Any], stop: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": stop}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test", "choices": [choice]}

    yield "", chunk({"role": "assistant", "content": ""})
    for part in _parts(turn.text):
        yield "", chunk({"content": part})
    yield "", chunk({}, turn.stop or "stop")
    usage = {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33}
    yield "", chunk({}) | {"choices": [], "usage": usage}
    yield "", "[DONE]"
