"""Models on loopback that say what a script has them say, in the two APIs that the agents' commands speak.

    with serving(Script(run("git commit -am x"), mcp("loom_done", task_id=task.id), say("done"))) as models:
        ...  # an agent that is told models.url; models.asked has what it sent

A script is a function from a request to the model's next turn. Requests on the side, which offer no shell (titles,
summaries), are answered with a word and do not count.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS_IN, TOKENS_OUT = 1000, 50  # what each turn is said to have cost

Object = dict[str, Any]
_JAVASCRIPT = ("exec", "custom")  # where Codex has its newer models write JavaScript that calls the other tools
_SHELLS = ("Bash", "exec_command")  # Claude Code's, and Codex'


@dataclass(frozen=True)
class Call:
    """One call of a tool: `tool` is `shell`, `write`, or a tool of Loom's MCP server."""

    tool: str
    arguments: Object


@dataclass(frozen=True)
class Turn:
    """What the model says and calls, or what becomes of the request instead."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    refused: bool = False  # by the provider, while it is being answered
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Object = field(default_factory=dict)


def say(text: str) -> Turn:
    """A text, which ends the agent's run."""
    return Turn(text)


def run(command: str) -> Turn:
    """A command in the agent's shell."""
    return Turn(calls=(Call("shell", {"command": command}),))


def write(path: str, text: str) -> Turn:
    """A new file, by the agent's own tool. `path`: absolute."""
    return Turn(calls=(Call("write", {"path": path, "text": text}),))


def mcp(tool: str, **arguments: Any) -> Turn:
    """A tool of Loom's."""
    return Turn(calls=(Call(tool, arguments),))


def refuse() -> Turn:
    """The provider's own refusal, not the model's."""
    return Turn(refused=True)


def error(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> Turn:
    """An error of the API, as both APIs write it."""
    body = {"type": "error", "error": {"type": kind, "message": message, **more}}
    return Turn(status=status, headers=headers or {}, body=body)


def used_up(until: float) -> Turn:
    """The limit of a subscription is reached. `until`: seconds since the epoch."""
    reset = str(int(until))
    claude = {
        "anthropic-ratelimit-unified-status": "rejected",
        "anthropic-ratelimit-unified-reset": reset,
        "anthropic-ratelimit-unified-representative-claim": "five_hour",
        "anthropic-ratelimit-unified-5h-status": "rejected",
        "anthropic-ratelimit-unified-5h-reset": reset,
        "anthropic-ratelimit-unified-5h-utilization": "1.0",
        "anthropic-ratelimit-unified-overage-status": "rejected",
        "retry-after": str(max(int(until - time.time()), 1)),
        "x-should-retry": "false",
    }
    codex = {"plan_type": "pro", "resets_at": int(until), "resets_in_seconds": int(until - time.time())}
    return error(429, "usage_limit_reached", "The usage limit has been reached", claude, **codex)


@dataclass(frozen=True)
class Request:
    """What an agent sent. `path`: below the URL that it was given."""

    path: str
    body: Object
    headers: Mapping[str, str]

    @property
    def tools(self) -> list[str]:
        """The names of the tools that the model is offered, those of an MCP server with its prefix."""
        return [name for tool in self.offers for name in _names(tool)]

    @property
    def offers(self) -> list[Object]:
        """The tools as they are described. Codex puts those of its newer models into the conversation."""
        more = (turn["tools"] for turn in self.turns if turn.get("type") == "additional_tools")
        return [*self.body.get("tools", ()), *itertools.chain.from_iterable(more)]

    @property
    def shell(self) -> str | None:
        """The tool that runs a command."""
        return next((name for name in _SHELLS if name in self.tools), None)

    @property
    def said(self) -> str:
        """All that stands in it: instructions, prompts, the model's turns and the results of tools."""
        told = [self.body.get("system", ""), self.body.get("instructions", ""), *self.turns]
        return json.dumps(told, ensure_ascii=False)

    @property
    def turns(self) -> list[Object]:
        """The conversation so far."""
        return [*self.body.get("messages", ()), *self.body.get("input", ())]

    @property
    def results(self) -> list[str]:
        """What tools have answered, in order."""
        return [text for turn in self.turns for text in _results(turn)]


class Script:
    """Turns one after the other, the last again and again."""

    def __init__(self, *turns: Turn) -> None:
        self._turns, self._at = turns, itertools.count()

    def __call__(self, request: Request) -> Turn:
        return self._turns[min(next(self._at), len(self._turns) - 1)]


@dataclass
class Models:
    """Where the models are, what they say, and all that they were asked; `asked`: without what was asked on the
    side."""

    url: str
    script: Callable[[Request], Turn]
    requests: list[Request] = field(default_factory=list)

    failures: list[Exception] = field(default_factory=list)  # of the script

    @property
    def asked(self) -> list[Request]:
        return [one for one in self.requests if one.shell]

    def answer(self, request: Request) -> Turn:
        """The next turn. A script that fails ends the agent's run, and is told of where the models were made."""
        self.requests.append(request)
        try:
            return self.script(request) if request.shell else say("ok")
        except Exception as failure:
            self.failures.append(failure)
            return error(400, "invalid_request_error", "The script has failed.")


@contextmanager
def serving(script: Callable[[Request], Turn]) -> Iterator[Models]:
    """The models for a while."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._error(Turn(status=404, body={"error": {"message": "There is nothing here."}}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
            request = Request(self.path, body, {name.lower(): value for name, value in self.headers.items()})
            turn = models.answer(request)
            self.close_connection = True
            try:
                if turn.status != 200:
                    self._error(turn)
                else:
                    self._stream(request, turn)
            except OSError:
                pass  # the agent has gone

        def _error(self, turn: Turn) -> None:
            text = json.dumps(turn.body).encode()
            self.send_response(turn.status)
            for name, value in {"content-type": "application/json", **turn.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _stream(self, request: Request, turn: Turn) -> None:
            self.send_response(200)
            for name, value in {"content-type": "text/event-stream", "connection": "close", **turn.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for event in (_anthropic if "messages" in request.body else _openai)(request, turn):
                self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    models = Models(f"http://127.0.0.1:{server.server_address[1]}", script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield models
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    if models.failures:
        raise models.failures[0]


def _names(tool: Object) -> Iterator[str]:
    """The names under which a model calls what it is offered."""
    kind = tool.get("type", "function")
    name = str(tool.get("name", kind))
    if kind == "namespace":
        prefix = "" if name == "functions" else f"{name}__"
        yield from (f"{prefix}{inner}" for one in tool["tools"] for inner in _names(one))
    elif (name, kind) == _JAVASCRIPT:
        yield from re.findall(r"^### `(\w+)`$", tool["description"], re.MULTILINE)
    else:
        yield name


def _results(turn: Object) -> Iterator[str]:
    """The results of tools in one turn of a conversation."""
    if str(turn.get("type", "")).endswith("call_output"):
        yield _text(turn.get("output"))
    content = turn.get("content")
    for block in content if isinstance(content, list) else ():
        if block.get("type") == "tool_result":
            yield _text(block.get("content"))


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(_text(one.get("text", "")) for one in content)
    return content if isinstance(content, str) else json.dumps(content)


_numbers = itertools.count(1)


# --- Anthropic's Messages ---------------------------------------------------------------------------------------------


def _anthropic(request: Request, turn: Turn) -> Iterator[Object]:
    usage = {"input_tokens": TOKENS_IN, "output_tokens": 1}
    message: Object = {
        "id": f"msg_{next(_numbers)}",
        "type": "message",
        "role": "assistant",
        "model": request.body.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield {"type": "message_start", "message": message}
    blocks: list[tuple[Object, Object]] = []
    if turn.text:
        blocks.append(({"type": "text", "text": ""}, {"type": "text_delta", "text": turn.text}))
    for call in turn.calls:
        name, arguments = _for_claude(call)
        block = {"type": "tool_use", "id": f"toolu_{next(_numbers)}", "name": name, "input": {}}
        blocks.append((block, {"type": "input_json_delta", "partial_json": json.dumps(arguments)}))
    for index, (block, delta) in enumerate(blocks):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    stop = "refusal" if turn.refused else "tool_use" if turn.calls else "end_turn"
    ended = {"stop_reason": stop, "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended, "usage": {"output_tokens": TOKENS_OUT}}
    yield {"type": "message_stop"}


def _for_claude(call: Call) -> tuple[str, Object]:
    if call.tool == "shell":
        return "Bash", {"command": call.arguments["command"], "description": "Do it"}
    if call.tool == "write":
        return "Write", {"file_path": call.arguments["path"], "content": call.arguments["text"]}
    return f"mcp__loom__{call.tool}", call.arguments


# --- OpenAI's Responses -----------------------------------------------------------------------------------------------


def _openai(request: Request, turn: Turn) -> Iterator[Object]:
    response = {"id": f"resp_{next(_numbers)}", "object": "response", "status": "in_progress", "output": []}
    yield {"type": "response.created", "response": response}
    for index, item in enumerate(_items(request, turn)):
        yield {"type": "response.output_item.added", "output_index": index, "item": item}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    usage = {
        "input_tokens": TOKENS_IN,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": TOKENS_OUT,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": TOKENS_IN + TOKENS_OUT,
    }
    yield {"type": "response.completed", "response": response | {"status": "completed", "usage": usage}}


def _items(request: Request, turn: Turn) -> Iterator[Object]:
    parts: list[Object] = [{"type": "output_text", "text": turn.text, "annotations": []}] if turn.text else []
    parts += [{"type": "refusal", "refusal": "I cannot help with that."}] if turn.refused else []
    for part in parts:
        yield {"type": "message", "id": f"msg_{next(_numbers)}", "role": "assistant", "content": [part]}
    for call in turn.calls:
        number = next(_numbers)
        yield {"id": f"fc_{number}", "call_id": f"call_{number}", **_for_codex(request, call)}


def _for_codex(request: Request, call: Call) -> Object:
    """The call in one of the ways in which Codex offers a tool: by JavaScript, in a namespace, by its bare name."""
    name, argument = _codex_names(call)
    words = {"arguments": json.dumps(argument)}
    for tool in request.offers:
        if any(f"{tool['name']}__{one['name']}" == name for one in tool.get("tools", ())):
            within = {"namespace": tool["name"], "name": name.removeprefix(f"{tool['name']}__")}
            return {"type": "function_call", **within, **words}
    if any((one["name"], one["type"]) == _JAVASCRIPT for tool in request.offers for one in tool.get("tools", ())):
        script = f"const said = await tools.{name}({json.dumps(argument)}); text(said.output ?? said);"
        return {"type": "custom_tool_call", "namespace": "functions", "name": "exec", "input": script}
    if isinstance(argument, str):
        return {"type": "custom_tool_call", "name": name, "input": argument}
    return {"type": "function_call", "name": name, **words}


def _codex_names(call: Call) -> tuple[str, Object | str]:
    """What Codex calls a tool, and what it takes."""
    if call.tool == "shell":
        return "exec_command", {"cmd": call.arguments["command"]}
    if call.tool == "write":
        lines = "".join(f"+{line}\n" for line in call.arguments["text"].splitlines())
        return "apply_patch", f"*** Begin Patch\n*** Add File: {call.arguments['path']}\n{lines}*** End Patch\n"
    return f"mcp__loom__{call.tool}", call.arguments
