"""Who answers: a command, and both APIs over a real HTTP server, on good days and bad ones."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from loom.config import LoomConfig, SkillsConfig
from loom.exceptions import ConfigError, ProviderError
from loom.skills import providers
from loom.skills.apis import AnthropicProvider, OpenAIProvider
from loom.skills.commands import AGENTS, AgentProvider, CommandProvider
from loom.skills.completion import Completion, Provider
from tests.agents.installed import agent
from tests.agents.models import TOKENS_IN, TOKENS_OUT, Request, run, say
from tests.agents.models import Turn as Said
from tests.agents.models import serving as models
from tests.skills.api import Api, Turn, serving

KEY = "sk-very-secret"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


async def ask(provider: Provider, **options: Any) -> Completion:
    return await provider.complete("Hello.", schema=SCHEMA, **{"timeout": 20.0, **options})


def script(tmp_path: Path, text: str) -> CommandProvider:
    file = tmp_path / "model.py"
    file.write_text(f"import os, sys, time, subprocess\n{text}\n")
    return CommandProvider(f"'{sys.executable}' '{file}'", tmp_path)


# --- commands -------------------------------------------------------------------------------------------------------


async def test_a_command_reads_a_prompt_and_prints_an_answer(tmp_path: Path) -> None:
    answer = await ask(script(tmp_path, "print(sys.stdin.read().upper(), os.getcwd())"))
    assert answer.text.strip() == f"HELLO. {tmp_path}"
    assert answer.input_tokens is None


async def test_a_command_that_does_not_read_and_one_that_reads_much(tmp_path: Path) -> None:
    long = "x" * 900_000
    assert (await script(tmp_path, "print('{}')").complete(long, schema=SCHEMA, timeout=20)).text == "{}\n"
    said = await script(tmp_path, "print(len(sys.stdin.read()))").complete(long, schema=SCHEMA, timeout=20)
    assert said.text == "900000\n"


async def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="ended with status 3: no quota left"):
        await ask(script(tmp_path, "sys.stderr.write('\\x1bno quota left'.replace('\\x1b', '')); sys.exit(3)"))
    with pytest.raises(ProviderError, match="cannot be started"):
        await ask(CommandProvider("/no/such/command"))
    with pytest.raises(ConfigError, match="not a command line"):
        CommandProvider("'")


async def test_a_timeout_ends_the_whole_tree(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    child = f"child = subprocess.Popen([sys.executable, '-c', {deaf!r}], stdout=subprocess.PIPE)"
    wait = "child.stdout.readline()\nopen('pid', 'w').write(str(child.pid))\ntime.sleep(60)"
    command = script(tmp_path, f"{child}\n{wait}")
    async with asyncio.timeout(30):
        with pytest.raises(ProviderError, match="no answer within 4 seconds"):
            await ask(command, timeout=4.0)
    pid = int((tmp_path / "pid").read_text())
    await asyncio.sleep(0.2)
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


async def test_what_a_command_leaves_behind_holds_nothing_up(tmp_path: Path) -> None:
    async with asyncio.timeout(30):
        assert (await ask(script(tmp_path, "subprocess.Popen(['sleep', '60'])\nprint('{}')"))).text == "{}\n"


@pytest.mark.parametrize("then", ["time.sleep(60)", "print('{}')"])
async def test_a_session_of_its_own_is_no_way_out(tmp_path: Path, then: str) -> None:
    """What has left the command's group and lost its parent ends with it, at the timeout and at its end."""
    away = "import os, time; os.setsid(); open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    leave = f"subprocess.Popen([sys.executable, '-c', {away!r}], stdout=subprocess.DEVNULL)"
    wait = "while not (os.path.exists('pid') and os.path.getsize('pid')): time.sleep(0.01)"
    with suppress(ProviderError):
        await ask(script(tmp_path, f"{leave}\n{wait}\n{then}"), timeout=4.0)
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    if sys.platform == "linux":
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


async def test_an_answer_without_end_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="more than 5 MB"):
        await ask(script(tmp_path, "while True: sys.stdout.write('x' * 65536)"))


async def test_a_command_does_not_see_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_SKILLS_API_KEY", KEY)
    assert KEY not in (await ask(script(tmp_path, "print(dict(os.environ))"))).text


# --- agents ---------------------------------------------------------------------------------------------------------


def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> AgentProvider:
    """An agent's program that does what a script in Python does, alone on PATH."""
    place = tmp_path / "bin"
    place.mkdir()
    program = place / name
    program.write_text(f"#!{sys.executable}\nimport json, sys\nsys.stdin.read()\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(place))
    return AgentProvider(name, tmp_path)


@pytest.mark.parametrize("name", list(AGENTS))
async def test_a_coding_agent_answers_and_changes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = agent(name)
    (tmp_path / "home").mkdir()
    (tmp_path / "here.txt").write_text("Here I am.")

    def script(request: Request) -> Said:
        return [run("cat here.txt"), run("echo x > made"), say('{"a": 1}')][len(request.results)]

    with models(script) as scripts:
        env = chosen.asking(scripts.url, {**os.environ, "HOME": str(tmp_path / "home")})
        for gone in os.environ.keys() - env.keys():
            monkeypatch.delenv(gone)
        for variable, value in env.items():
            monkeypatch.setenv(variable, value)
        answer = await AgentProvider(name, tmp_path).complete("Hello.", schema=SCHEMA, timeout=100)
    assert answer.text == '{"a": 1}'
    assert (answer.input_tokens, answer.output_tokens) == (3 * TOKENS_IN, 3 * TOKENS_OUT)
    assert "Here I am." in scripts.asked[-1].results[0]
    assert not (tmp_path / "made").exists()
    assert not any("loom" in tool for tool in scripts.asked[0].tools), "no servers"


@pytest.mark.parametrize(
    ("name", "event", "why"),
    [
        ("claude", {"type": "result", "subtype": "success", "is_error": True, "result": "Not logged in"}, "Not logged"),
        ("claude", {"subtype": "success", "is_error": False, "stop_reason": "refusal", "result": "No"}, "answer: No"),
        ("claude", {}, "status 1: it broke"),
        ("codex", {"type": "turn.failed", "error": {"message": "Quota exceeded."}}, "Quota exceeded"),
        ("codex", {"type": "turn.completed"}, "status 1: it broke"),
    ],
)
async def test_an_agent_that_gives_no_answer_says_why(
    name: str, event: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"print('Hello')\nprint(json.dumps({event!r}))\nprint('it broke', file=sys.stderr)\nsys.exit(1)"
    with pytest.raises(ProviderError, match=why):
        await ask(scripted(tmp_path, monkeypatch, name, text))


async def test_an_agent_is_told_which_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = '{"result": sys.argv[-1], "subtype": "success"}'
    claude = scripted(tmp_path, monkeypatch, "claude", f"print(json.dumps({told}))")
    assert (await ask(claude, model="a-larger-one")).text == "a-larger-one"


def test_a_person_is_answered_by_the_agent_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should nothing else be configured, and nobody but a person be there."""
    scripted(tmp_path, monkeypatch, "codex", "").check()
    nothing = LoomConfig()
    found = providers.at_hand(nothing)
    assert found is not None
    assert found.name == "codex"
    assert providers.choose(nothing) is None, "whoever calls over MCP answers itself"
    assert providers.at_hand(LoomConfig(skills=SkillsConfig(provider="agent"))) is None
    assert isinstance(providers.at_hand(LoomConfig(skills=SkillsConfig(command="cat"))), CommandProvider)
    with pytest.raises(ConfigError, match="`claude` is not on PATH"):
        AgentProvider("claude").check()
    monkeypatch.setenv("LOOM_RUN", "one.")
    assert providers.at_hand(nothing) is None, "an agent of Loom's own is no person"


# --- the APIs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture
def api(server: Api) -> Api:
    server.turns[:] = [Turn('{"a": 1}')]
    server.requests.clear()
    server.at.clear()
    return server


@pytest.fixture(params=["anthropic", "openai"])
def remote(request: pytest.FixtureRequest, api: Api) -> AnthropicProvider | OpenAIProvider:
    if request.param == "anthropic":
        return AnthropicProvider(KEY, api.url, "some-model")
    return OpenAIProvider(KEY, f"{api.url}/v1", "some-model")


async def test_both_apis_stream_an_answer(remote: Provider, api: Api) -> None:
    api.turns[:] = [Turn('{"a": 1, "text": "größer"}')]
    answer = await ask(remote, max_tokens=77, temperature=0.5)
    assert answer.text == '{"a": 1, "text": "größer"}'
    assert (answer.input_tokens, answer.output_tokens) == (11, 22)
    assert answer.model == ("claude-test" if remote.name == "anthropic" else "gpt-test")
    (request,) = api.requests
    assert KEY in request["key"]
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("some-model", 77, 0.5)
    assert "a" in str(request.get("tools") or request.get("response_format"))


async def test_the_skill_names_another_model(remote: Provider, api: Api) -> None:
    await ask(remote, model="a-larger-one")
    assert api.requests[0]["model"] == "a-larger-one"


async def test_a_rate_limit_is_waited_for_as_long_as_it_says(remote: Provider, api: Api) -> None:
    api.turns[:] = [Turn(status=429, headers={"retry-after": "1"}), Turn('{"a": 2}')]
    async with asyncio.timeout(30):
        assert (await ask(remote)).text == '{"a": 2}'
    assert api.at[1] - api.at[0] > 0.9


async def test_a_server_that_recovers(remote: Provider, api: Api) -> None:
    soon = {"retry-after-ms": "20"}
    api.turns[:] = [Turn(status=503, headers=soon), Turn(status=500, headers=soon), Turn("{}")]
    assert (await ask(remote)).text == "{}"
    assert len(api.requests) == 3


async def test_tries_are_bounded(remote: Provider, api: Api) -> None:
    api.turns[:] = [Turn(status=429, headers={"retry-after-ms": "10"}, message="slow down")]
    with pytest.raises(ProviderError, match=r"answered 429: .*slow down.*It was tried 5 times"):
        await ask(remote)
    assert len(api.requests) == 5


async def test_errors_that_no_retry_cures(remote: Provider, api: Api) -> None:
    api.turns[:] = [Turn(status=401, message=f"bad key {KEY}\n\u202e")]
    with pytest.raises(ProviderError, match=r"answered 401: .*Check the key in LOOM_SKILLS_API_KEY") as caught:
        await ask(remote)
    assert KEY not in str(caught.value)
    assert "\u202e" not in str(caught.value)
    assert len(api.requests) == 1
    api.turns[:] = [Turn(status=404)]
    with pytest.raises(ProviderError, match=r"skills.model"):
        await ask(remote)


async def test_a_server_that_does_not_answer(remote: Provider, api: Api) -> None:
    api.turns[:] = [Turn('{"a": 1}'), Turn(sleep=60)]
    await ask(remote)  # so that what follows does not import the client, which takes seconds
    async with asyncio.timeout(30):
        with pytest.raises(ProviderError, match=r"no answer within 0.5 seconds"):
            await ask(remote, timeout=0.5)


async def test_an_answer_that_is_cut(remote: Provider, api: Api) -> None:
    api.turns[:] = [Turn('{"a": 1}', cut=True)]
    with pytest.raises(ProviderError, match="broke off"):
        await ask(remote)
    api.turns[:] = [Turn('{"a": ', stop="max_tokens" if remote.name == "anthropic" else "length")]
    with pytest.raises(ProviderError, match="cut off at its limit of tokens"):
        await ask(remote)
    api.turns[:] = [Turn("", stop="refusal" if remote.name == "anthropic" else "content_filter")]
    with pytest.raises(ProviderError, match="ended as"):
        await ask(remote)


@pytest.mark.parametrize(
    "raw", [b"", b"<html>hello</html>", b"data: {broken\n\n", b"data: 17\n\n", b'data: {"a": 1}\n\n']
)
async def test_a_server_that_speaks_something_else(remote: Provider, api: Api, raw: bytes) -> None:
    api.turns[:] = [Turn(raw=raw)]
    with pytest.raises(ProviderError):
        await ask(remote)


async def test_an_answer_of_more_than_five_megabytes(remote: Provider, api: Api) -> None:
    api.turns[:] = [Turn("x" * 5_500_000)]
    with pytest.raises(ProviderError, match="more than 5 MB"):
        await ask(remote)


async def test_nobody_listens() -> None:
    for nobody in (
        AnthropicProvider(KEY, "http://127.0.0.1:9", "m"),
        OpenAIProvider(KEY, "http://127.0.0.1:9/v1", "m"),
    ):
        with pytest.raises(ProviderError, match=r"no answer within|cannot be reached"):
            await ask(nobody, timeout=0.7)


async def test_a_server_without_response_formats(api: Api) -> None:
    api.turns[:] = [Turn(status=400, message="response_format is not supported"), Turn('{"a": 3}')]
    assert (await ask(OpenAIProvider(None, f"{api.url}/v1", "m"))).text == '{"a": 3}'
    assert "response_format" in api.requests[0]
    assert "response_format" not in api.requests[1]


# --- choosing -------------------------------------------------------------------------------------------------------


async def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert providers.choose(LoomConfig()) is None
    assert providers.choose(LoomConfig(skills=SkillsConfig(command="cat")), "agent") is None
    with pytest.raises(ConfigError, match=r"skills.command is not set"):
        providers.choose(LoomConfig(skills=SkillsConfig(provider="command")))
    with pytest.raises(ConfigError, match="which does not exist"):
        providers.choose(LoomConfig(skills=SkillsConfig(provider="oracle")))
    for name in ("anthropic", "openai"):
        without_model = providers.choose(LoomConfig(skills=SkillsConfig(provider=name), skills_api_key=KEY))
        without_key = providers.choose(LoomConfig(skills=SkillsConfig(provider=name, model="m")))
        assert without_model is not None
        assert without_key is not None
        for provider, why in ((without_model, "needs a model"), (without_key, "needs a key")):
            with pytest.raises(ConfigError, match=why):
                provider.check()
            with pytest.raises(ConfigError, match=why):
                await ask(provider)
        without_model.check("m")


@pytest.mark.parametrize("kind", [AnthropicProvider, OpenAIProvider])
async def test_a_package_that_is_not_installed_is_named(
    kind: type[AnthropicProvider] | type[OpenAIProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = kind(KEY, None, "m")
    provider.check()
    monkeypatch.setitem(sys.modules, kind.package, None)
    with pytest.raises(ConfigError, match=f"needs the package {kind.package}"):
        provider.check()
    with pytest.raises(ConfigError, match=f"needs the package {kind.package}"):
        await ask(provider)


def test_the_clients_are_imported_when_they_are_used() -> None:
    import subprocess

    heavy = ("anthropic", "openai", "jinja2", "jsonschema")
    code = f"""
import sys, loom.skills.tools
from loom.skills.apis import AnthropicProvider, OpenAIProvider
for kind in (AnthropicProvider, OpenAIProvider):
    kind("key", None, "m").check()
print([m for m in {heavy} if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True)
    assert done.stdout.strip() == "[]"
