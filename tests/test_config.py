"""The three layers, what is refused in them, and what counts only when trusted."""

from __future__ import annotations

import difflib
import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.caller import Caller, calling
from loom.config import (
    API_KEY_VARIABLE,
    KEYS,
    LoomConfig,
    find_project,
    gone,
    guarded,
    is_trusted,
    load_config,
    path_in_repository,
    rules,
    secret,
    set_trusted,
    set_value,
    trust,
    user_config_path,
)
from loom.config.files import read_layer
from loom.config.keys import CheckConfig, SetupConfig, WorkConfig
from loom.config.trust import guarded_keys, hold_back
from loom.exceptions import ConfigError

PROJECT_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own; Loom's variables unset and the current directory outside any project."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "shop", f"project_id: {PROJECT_ID}\n")


def make_project(directory: Path, text: str) -> Path:
    (directory / ".loom").mkdir(parents=True)
    project_file(directory).write_text(text)
    return directory.resolve()


def project_file(directory: Path) -> Path:
    return directory / ".loom" / "config.yaml"


def user_file(text: str) -> Path:
    path = user_config_path()
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def load(project: Path | None = None, **environ: str) -> LoomConfig:
    """As somebody finds it who has just these variables."""
    with calling(Caller(environ)):
        return load_config(project)


# --- layers ----------------------------------------------------------------------------------------------------------


def test_defaults_without_any_file() -> None:
    config = load()
    assert config == LoomConfig(sources=config.sources)
    assert set(config.sources.values()) == {"default"}
    assert (config.mcp.host, config.mcp.port) == ("127.0.0.1", 8765)
    assert config.loom_dir is None


def test_each_layer_wins_over_the_one_before(project: Path) -> None:
    user = user_file("orchestration: {claim_ttl_seconds: 1, max_retries: 1, sweep_seconds: 1}\nlog_level: info\n")
    project_file(project).write_text("orchestration: {claim_ttl_seconds: 2, max_retries: 2}\n")
    config = load(project, LOOM_CLAIM_TTL="3", LOOM_AGENT_ID="ann", LOOM_LOG_LEVEL="")
    assert config.orchestration.claim_ttl_seconds == 3
    assert config.orchestration.max_retries == 2
    assert config.orchestration.sweep_seconds == 1.0
    assert (config.log_level, config.agent_id, config.project_name) == ("INFO", "ann", "shop")
    assert config.sources["orchestration.claim_ttl_seconds"] == "LOOM_CLAIM_TTL"
    assert config.sources["orchestration.max_retries"] == str(project_file(project))
    assert config.sources["orchestration.sweep_seconds"] == str(user)
    assert config.sources["mcp.port"] == "default"


def test_every_variable_is_read() -> None:
    values = {
        "LOOM_DATABASE_URL": "postgresql://u:p@h/d",
        "LOOM_REDIS_URL": "rediss://h",
        "LOOM_PROJECT_ID": PROJECT_ID.upper(),
        "LOOM_MCP_HOST": "::1",
        "LOOM_MCP_PORT": "1",
        "LOOM_MCP_HUB": "never",
        "LOOM_SERVER_URL": "https://h",
        "LOOM_LOG_LEVEL": "debug",
        "LOOM_CLAIM_TTL": "2",
        "LOOM_MAX_RETRIES": "0",
        "LOOM_SKILLS_PROVIDER": "anthropic",
        "LOOM_SKILLS_MODEL": "m",
        "LOOM_SKILLS_BASE_URL": "http://h",
    }
    config = load(None, **values, LOOM_SKILLS_API_KEY="sk-1")
    assert {rule.variable for rule in KEYS.values() if rule.variable} == set(values)
    assert {source for source in config.sources.values() if source.startswith("LOOM_")} == set(values)
    assert config.project_id == PROJECT_ID
    assert config.skills_api_key == "sk-1"
    assert "sk-1" not in repr(config) + repr(config.shown())
    assert "u:p" not in repr(config) + repr(config.shown())


def test_what_is_secret_comes_from_files_too(tmp_path: Path) -> None:
    values = {
        "LOOM_DATABASE_URL": "postgresql://u:p@h/d",
        "LOOM_REDIS_URL": "rediss://:p@h",
        "LOOM_SKILLS_BASE_URL": "http://u:p@h",
        "LOOM_SKILLS_API_KEY": "sk-1",
        "LOOM_TOKEN": "t-1",
    }
    secrets = {rule.variable for rule in KEYS.values() if rule.variable and rule.secret} | {API_KEY_VARIABLE}
    assert secrets <= set(values)
    for name, value in values.items():
        (tmp_path / name).write_text(f"{value}\n")
    given = {f"{name}_FILE": str(tmp_path / name) for name in values}
    config = load(None, **given)
    assert (config.database.url, config.redis.url) == (values["LOOM_DATABASE_URL"], values["LOOM_REDIS_URL"])
    assert (config.skills.base_url, config.skills_api_key) == ("http://u:p@h", "sk-1")
    assert config.sources["database.url"] == "LOOM_DATABASE_URL_FILE"
    assert config.servers.backend == "external"
    assert secret(given, "LOOM_TOKEN") == ("t-1", "LOOM_TOKEN_FILE")
    assert secret({}, "LOOM_TOKEN") == ("", "LOOM_TOKEN")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "does not hold one line"),
        (b"postgresql://h/d\npostgresql://h/e\n", "does not hold one line"),
        (b"\xff\xfe", "cannot be read: it is no text"),
        (b"x" * 70_000, "cannot be read: it is larger than 64 kB"),
        (b"mysql://u:s3cret@h", "LOOM_DATABASE_URL_FILE must be a URL that begins with postgresql://"),
    ],
)
def test_a_file_that_holds_no_secret_is_told_without_what_it_holds(
    tmp_path: Path, data: bytes | None, why: str
) -> None:
    if data is not None:
        (tmp_path / "url").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(None, LOOM_DATABASE_URL_FILE=str(tmp_path / "url"))
    assert why in caught.value.cause
    assert "s3cret" not in str(caught.value)


def test_a_secret_is_given_in_one_way(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="LOOM_DATABASE_URL_FILE leads to ~nobody-here/url, and there is no such user"
    ):
        load(None, LOOM_DATABASE_URL_FILE="~nobody-here/url")
    with pytest.raises(ConfigError, match="LOOM_REDIS_URL and LOOM_REDIS_URL_FILE are both set"):
        load(None, LOOM_REDIS_URL="redis://h", LOOM_REDIS_URL_FILE=str(tmp_path))


def test_a_command_for_passwords_is_a_programs_start(project: Path) -> None:
    project_file(project).write_text("database: {url: 'postgresql://h/d', password_command: [evil]}\n")
    config = load(project)
    assert config.database.password_command == ()
    assert "`database.password_command`" in config.warnings[0]
    user_file("database: {password_command: [print-token, --for, loom]}\n")
    config = load(project, LOOM_DATABASE_URL="postgresql://h/d")
    assert config.database.password_command == ("print-token", "--for", "loom")
    own = load(project)  # of the servers that Loom starts it knows the password
    assert own.database.password_command == ()
    assert any("`database.password_command` is ignored" in one for one in own.warnings)


def test_only_what_differs_from_the_defaults_is_shown(project: Path) -> None:
    project_file(project).write_text(
        f"project_id: {PROJECT_ID}\nmcp: {{port: 9000}}\nredis: {{stream_maxlen: 10000}}\n"
    )
    assert load(project).shown(changed=True) == {"project_name": "shop", "project_id": PROJECT_ID, "mcp.port": 9000}
    assert set(load(project).shown()) == {key for key in KEYS if "*" not in key}


def test_an_address_means_servers_of_the_users_own() -> None:
    assert load(LOOM_REDIS_URL="redis://h").servers.backend == "external"
    user_file("servers: {backend: docker}\n")
    assert load(LOOM_DATABASE_URL="postgres://h").servers.backend == "external"  # a later layer


def test_a_redis_alone_that_moves_postgres_elsewhere_is_pointed_out() -> None:
    assert any("PostgreSQL at localhost:5432" in one for one in load(LOOM_REDIS_URL="redis://h").warnings)
    both = load(LOOM_REDIS_URL="redis://h", LOOM_DATABASE_URL="postgres://h")
    assert not any("localhost" in one for one in both.warnings)


def test_an_address_beside_another_backend_is_ignored_aloud() -> None:
    user = user_file("servers: {backend: embedded}\ndatabase: {url: 'postgresql://h/d'}\n")
    config = load()
    assert config.database.url is None
    assert config.warnings == (f"{user}: `database.url` is ignored, because `servers.backend` is embedded.",)


# --- finding the project ---------------------------------------------------------------------------------------------


def test_the_project_is_found_by_walking_up(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert load().project_dir == project
    assert load().project_id == PROJECT_ID


def test_argument_wins_over_variable_wins_over_walking_up(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = make_project(tmp_path / "second", "")
    third = make_project(tmp_path / "third", "")
    monkeypatch.chdir(project)
    assert load(LOOM_PROJECT_DIR=str(second)).project_dir == second
    assert load(third, LOOM_PROJECT_DIR=str(second)).project_dir == third
    assert load(LOOM_PROJECT_DIR="${CLAUDE_PROJECT_DIR:-.}").project_dir == project
    assert load(LOOM_PROJECT_DIR=".").project_dir == project


def test_a_variable_that_names_no_project_is_told(project: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    config = load(LOOM_PROJECT_DIR=str(home))
    assert config.project_dir is None
    assert f"LOOM_PROJECT_DIR names {home}" in config.warnings[0]


@pytest.mark.parametrize("name", ["LOOM_DATABASE_URL", "LOOM_REDIS_URL", "LOOM_SKILLS_BASE_URL"])
def test_a_password_with_brackets_is_told_how_it_is_written(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    scheme = {"LOOM_DATABASE_URL": "postgresql", "LOOM_REDIS_URL": "redis"}.get(name, "https")
    monkeypatch.setenv(name, f"{scheme}://me:s3[ret@host/x")
    with pytest.raises(ConfigError, match=f"{name} must be a URL whose password has %5B for") as caught:
        load_config()
    assert "s3[ret" not in str(caught.value)


def test_a_home_that_is_nobodys_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_PROJECT_DIR", "~nobody-here/shop")
    assert "LOOM_PROJECT_DIR names ~nobody-here/shop" in load_config().warnings[0]

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(ConfigError, match="has no home directory"):
        load_config()


def test_the_users_own_file_makes_home_no_project(home: Path) -> None:
    user_file("project_name: mine\n")
    assert find_project(home) is None


def test_what_nobody_may_look_at_above_is_no_project(project: Path, tmp_path: Path) -> None:
    nested = project / "nested"
    (nested / ".loom").mkdir(parents=True)
    (nested / ".loom" / "config.yaml").symlink_to("x" * 300)  # as an error as a directory that is closed to us
    (nested / ".git").symlink_to("x" * 300)
    assert find_project(nested) == project
    assert path_in_repository(nested / "plan.yaml", nested) == "plan.yaml"


@pytest.mark.parametrize("committed", [False, True])
def test_a_worktree_belongs_to_the_main_worktrees_project(project: Path, tmp_path: Path, committed: bool) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *words], cwd=project, check=True, capture_output=True)

    git("init", "-q")
    git("add", *(["."] if committed else []))
    git("commit", "-q", "--allow-empty", "-m", "first")
    linked = tmp_path / "linked"
    git("worktree", "add", "-q", str(linked))
    (linked / "below").mkdir()
    assert project_file(linked).exists() is committed
    assert find_project(linked / "below") == project
    nested = make_project(linked / "vendor", "")
    assert find_project(nested) == nested
    names = [path_in_repository(tree / "below" / "plan.yaml", project) for tree in (linked, project)]
    assert names == ["below/plan.yaml"] * 2


def test_a_file_is_called_by_its_place_in_the_repository(project: Path, tmp_path: Path) -> None:
    (project / "link.yaml").symlink_to(project / "plans" / "plan.yaml")
    assert path_in_repository(project / "link.yaml", project) == "plans/plan.yaml"
    assert path_in_repository(tmp_path / "elsewhere.yaml", project) == f"{tmp_path.resolve()}/elsewhere.yaml"
    below = make_project(project / "below", "")
    assert path_in_repository(below / "plan.yaml", below) == "plan.yaml"
    (project / ".git").mkdir()
    assert path_in_repository(below / "plan.yaml", below) == "below/plan.yaml"


def test_a_git_file_that_somebody_else_wrote_makes_no_worktree(project: Path, tmp_path: Path) -> None:
    """Unpacked from an archive, it points into a repository of the reader's, whose tasks would be taken."""
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    linked, evil = tmp_path / "linked", make_project(tmp_path / "evil", "project_name: evil\n")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], cwd=project, check=True)
    subprocess.run(["git", "worktree", "add", "-q", str(linked)], cwd=project, check=True)
    assert find_project(linked) == project
    (evil / ".git").write_text(f"gitdir: {project}/.git/worktrees/linked\n")
    assert find_project(evil) == evil
    (evil / "fake").mkdir()
    (evil / "fake" / "commondir").write_text(f"{project}/.git\n")
    (evil / "fake" / "gitdir").write_text(f"{evil}/.git\n")
    (evil / ".git").write_text("gitdir: fake\n")
    assert find_project(evil) == evil


# --- what is wrong in a file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("orchestration: {claim_ttl: 5}", "orchestration.claim_ttl", "orchestration.claim_ttl_seconds"),
        ("databse: {url: x}", "databse", "database"),
        ("loglevel: x", "loglevel", "log_level"),
        ("redis: {urll: x}", "redis.urll", "redis.url"),
        ("port: 1", "port", "mcp.port"),
    ],
)
def test_an_unknown_key_is_a_warning(project: Path, text: str, key: str, nearest: str) -> None:
    project_file(project).write_text(text)
    expected = f"{project_file(project)}: unknown key `{key}`; the nearest valid key is `{nearest}`."
    assert load(project).warnings == (expected,)


@pytest.mark.parametrize("key", ["nope", "mcp.nope", "theme", "orchestration.zzzz"])
def test_a_key_that_is_like_no_other_is_no_guess(project: Path, key: str) -> None:
    project_file(project).write_text(f"{key}: 1\n" if "." not in key else "{}: {{{}: 1}}\n".format(*key.split(".")))
    assert load(project).warnings == (
        f"{project_file(project)}: unknown key `{key}`; `loom config show` has all keys.",
    )
    with pytest.raises(ConfigError, match=rf"no key `{key}`\. See `loom config show`\."):
        set_value(project_file(project), key, "1")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mcp: {port: '8765'}", "`mcp.port` must be a whole number from 1 to 65535, and is '8765' (str)."),
        ("mcp: {port: 70000}", "`mcp.port` must be a whole number from 1 to 65535, and is '70000' (int)."),
        ("mcp: {port: true}", "`mcp.port` must be a whole number from 1 to 65535, and is 'True' (bool)."),
        ("mcp: 5", "`mcp` must be a mapping of keys."),
        ("project_id: 7", "`project_id` must be a UUID, and is '7' (int)."),
        ("servers: {backend: podman}", "must be one of embedded, docker, external, and is 'podman' (str)."),
        ("servers: {instance: ../x}", "`servers.instance` must be up to 32 of a-z, 0-9, - and _"),
        ("orchestration: {sweep_seconds: .nan}", "`orchestration.sweep_seconds` must be a number from"),
        ("notify: {me: {zone: Mars/Base}}", "`notify.me.zone` must be a time zone that is known here, such as Europe"),
        ("notify: {me: {zone: ../../etc/passwd}}", "`notify.me.zone` must be a time zone that is known here"),
        ("- a", "must be a mapping of keys."),
        ("orchestration: {sweep_seconds: 1" + "0" * 400 + "}", "must be a number from 0.05 to 3600"),
        ("project_id: 2026-13-45", "`project_id` must be a UUID, and is '2026-13-45' (str)."),
        ("a: [", "is not valid YAML in line"),
        ("a: " + "[" * 30_000, "is nested more than 8 deep in line 1."),
        ("a: 1\na: 2", "has the key `a` twice in line 2."),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(project: Path, text: str, sentence: str) -> None:
    project_file(project).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(project)
    assert str(project_file(project)) in caught.value.cause
    assert sentence in caught.value.cause
    assert caught.value.next_step


def test_an_error_never_shows_an_address(project: Path) -> None:
    project_file(project).write_text("database: {url: 'mysql://u:secret@h/d'}")
    with pytest.raises(ConfigError, match=r"begins with postgresql:// or postgres://\.") as caught:
        load(project)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="The variable LOOM_CLAIM_TTL must be a whole number"):
        load(LOOM_CLAIM_TTL="soon")


def test_pool_bounds_must_agree(project: Path) -> None:
    project_file(project).write_text("database: {pool_min: 11}")
    with pytest.raises(ConfigError, match=r"above `database\.pool_max`, which is 10"):
        load(project)


def test_empty_keys_and_files_count_as_absent(project: Path) -> None:
    project_file(project).write_text("database:\nmcp: {port: }\n")
    assert load(project).mcp.port == 8765
    project_file(project).write_text("")
    assert load(project).warnings == ()


# --- writing ---------------------------------------------------------------------------------------------------------


def test_set_value_keeps_comments(project: Path) -> None:
    path = project_file(project)
    path.write_text("# ours\nproject_name: shop # short\n\nmcp:\n    # a free port\n    port: 1 # one\n\nredis: {}\n")
    set_value(path, "mcp.port", "9000")
    set_value(path, "mcp.host", "localhost")
    set_value(path, "project_name", "yes: no")
    set_value(path, "orchestration.sweep_seconds", 2)
    assert path.read_text() == (
        "# ours\nproject_name: 'yes: no' # short\n\nmcp:\n    host: localhost\n    # a free port\n"
        "    port: 9000 # one\n\nredis: {}\norchestration:\n  sweep_seconds: 2.0\n"
    )
    config = load(project)
    assert (config.mcp.port, config.project_name, config.warnings) == (9000, "yes: no", ())


def test_set_value_rewrites_what_lines_cannot_express(project: Path) -> None:
    path = project_file(project)
    path.write_text("mcp: {port: 1, host: h}\n")
    set_value(path, "mcp.port", 2)
    assert load(project).mcp.port == 2
    assert load(project).mcp.host == "h"


def test_set_value_makes_a_private_file_and_refuses_nonsense() -> None:
    path = user_config_path()
    set_value(path, "skills.model", "m")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load().skills.model == "m"
    with pytest.raises(ConfigError, match=r"no key `mcp\.prt`\. The nearest valid key is `mcp\.port`\."):
        set_value(path, "mcp.prt", "1")
    with pytest.raises(ConfigError, match=r"`mcp\.port` must be a whole number"):
        set_value(path, "mcp.port", "many")
    assert path.read_text() == "skills:\n  model: m\n"
    assert list(path.parent.iterdir()) == [path]


def test_set_value_adds_to_and_replaces_what_is_there_in_any_style(project: Path) -> None:
    path = project_file(project)
    path.write_text("mcp: {host: h} # one line\nredis: # none yet\nskills:\n  model:\n    a long\n    name\n# the end")
    set_value(path, "mcp.port", "9000")
    set_value(path, "redis.stream_maxlen", "500")
    set_value(path, "skills.model", "m, n")
    set_value(path, "log_level", "INFO")
    assert path.read_text() == (
        "mcp: {port: 9000, host: h} # one line\nredis: # none yet\n  stream_maxlen: 500\nskills:\n  model:\n"
        "    m, n\n# the end\nlog_level: INFO\n"
    )
    assert load(project).warnings == ()


# --- lists, tables ---------------------------------------------------------------------------------------------------


CHECKS = """\
work:
  silence_seconds: 60
  setup: {inputs: [uv.lock, package.json]}
orchestration: {fix_depth: 3}
checks:
  unit: {command: [pytest, -q], protect: [tests/]}
  lint:
    timeout: 5
    command:
      - ruff
      - check
"""


def written(path: Path) -> LoomConfig:
    """What one file says by itself, warnings not expected."""
    warnings: list[str] = []
    made, lacking = KEYS.build(read_layer(path, warnings))
    assert (warnings, lacking) == ([], [])
    return LoomConfig(**made)


def test_lists_and_tables_of_named_rows_are_read(project: Path) -> None:
    path = project_file(project)
    path.write_text(CHECKS)
    found = written(path)
    assert found.work == WorkConfig(SetupConfig(inputs=("uv.lock", "package.json")), silence_seconds=60)
    assert found.checks == {
        "unit": CheckConfig(("pytest", "-q"), protect=("tests/",)),
        "lint": CheckConfig(("ruff", "check"), timeout=5),
    }
    assert dict(KEYS.of(found))["checks.lint.timeout"] == 5
    assert [key for key in KEYS if key.startswith("checks.")][:3] == [
        "checks.*.command",
        "checks.*.timeout",
        "checks.*.protect",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "orchestration: {fix_depth: 11}",
            "`orchestration.fix_depth` must be a whole number from 1 to 10, and is '11' (int).",
        ),
        (
            "orchestration: {fix_depth: true}",
            "`orchestration.fix_depth` must be a whole number from 1 to 10, and is 'True' (bool).",
        ),
        (
            "orchestration: {fix_depth: '1'}",
            "`orchestration.fix_depth` must be a whole number from 1 to 10, and is '1' (str).",
        ),
        ("work: {setup: [a]}", "`work.setup` must be a mapping of keys."),
        (
            "work: {setup: {command: uv}}",
            "`work.setup.command` must be a list of at most 100 words, and is 'uv' (str).",
        ),
        (
            "work: {setup: {command: [1]}}",
            "`work.setup.command` must be a list of at most 100 words, and is '[1]' (list).",
        ),
        ("work: {setup: {command: ['']}}", "`work.setup.command` must be a list of at most 100 words"),
        (
            f"checks: {{unit: {{command: [{'a, ' * 101}]}}}}",
            "`checks.unit.command` must be a list of at most 100 words",
        ),
        ("checks: {unit: {timeout: 0}}", "`checks.unit.timeout` must be a whole number from 1 to 86400"),
        ("checks: {unit: pytest}", "`checks.unit` must be a mapping of keys."),
        ("checks: [unit]", "`checks` must be a mapping of keys."),
        ("checks: {'a.b': {timeout: 1}}", "`checks` must be a mapping whose names are up to 64 of A-Z"),
        ("checks: {" + "".join(f"c{n}: {{}}, " for n in range(101)) + "}", "`checks` must be a mapping of at most 100"),
    ],
)
def test_a_wrong_list_number_or_row_is_named(project: Path, text: str, sentence: str) -> None:
    project_file(project).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_layer(project_file(project), [])
    assert f"{project_file(project)}: {sentence}" in caught.value.cause
    assert caught.value.next_step


def test_an_unknown_key_of_a_row_names_the_nearest_in_that_row(project: Path) -> None:
    warnings: list[str] = []
    project_file(project).write_text("checks: {unit: {comand: [a]}}\n")
    assert read_layer(project_file(project), warnings) == {}
    assert "unknown key `checks.unit.comand`; the nearest valid key is `checks.unit.command`." in warnings[0]


def test_a_row_without_what_it_must_have_is_left_out() -> None:
    made, lacking = KEYS.build({"checks.unit.timeout": 5, "checks.lint.command": ("ruff",)})
    assert made["checks"] == {"lint": CheckConfig(("ruff",))}
    assert lacking == ["checks.unit.command"]


def test_unknown_keys_are_told_within_bounds(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    class Counted(difflib.SequenceMatcher[str]):
        def __init__(self, isjunk: None, a: str, b: str) -> None:
            compared.append(a)
            super().__init__(isjunk, a, b)

    monkeypatch.setattr(difflib, "SequenceMatcher", Counted)
    text = "".join(f"{'x' * 60}{number}: 1\n" for number in range(3_500)) + f"{'y' * 1000}: 1\n"
    project_file(project).write_text(text)
    warnings = load(project).warnings
    assert len(warnings) == 11
    assert warnings[-1] == f"{project_file(project)}: 3491 more unknown keys."
    assert sum(map(len, warnings)) < 5_000
    assert len(set(compared)) == 10, "to compare all of them with each valid key takes minutes"


def test_set_value_writes_lists_flags_and_rows(project: Path) -> None:
    path = project_file(project)
    path.write_text("# ours\n" + CHECKS + "# the end\n")
    set_value(path, "work.setup.inputs", "[a, 'b, c']")
    set_value(path, "work.silence_seconds", "90")
    set_value(path, "checks.unit.timeout", "60")
    set_value(path, "checks.lint.command", '["ruff", "format"]')
    set_value(path, "checks.types", '{"command": ["mypy"], "timeout": 7}')
    assert path.read_text() == (
        "# ours\nwork:\n  silence_seconds: 90\n  setup: {inputs: [a, 'b, c']}\norchestration: {fix_depth: 3}\nchecks:\n"
        "  types: {command: [mypy], timeout: 7}\n"
        "  unit: {timeout: 60, command: [pytest, -q], protect: [tests/]}\n"
        "  lint:\n    timeout: 5\n    command: [ruff, format]\n# the end\n"
    )
    set_value(path, "checks.lint", "{command: [ruff]}")
    assert written(path).checks["lint"] == CheckConfig(("ruff",))
    path.unlink()
    set_value(path, "checks.unit.timeout", "60")
    assert path.read_text() == "checks:\n  unit:\n    timeout: 60\n"


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("work.allow", "a b", "`work.allow` must be a list of at most 100 texts, written [one, two], and is"),
        ("work.allow", "[a", "must be a list of at most 100 texts, written [one, two], and is '[a' (str)."),
        (
            "orchestration.fix_depth",
            "yes",
            "`orchestration.fix_depth` must be a whole number from 1 to 10, and is 'yes' (str).",
        ),
        ("checks.unit.nothing", "1", "There is no key `checks.unit.nothing`. The nearest valid key is `checks.unit."),
        ("checks", "{}", "There is no key `checks`."),
        ("work.setup", "{}", "There is no key `work.setup`."),
        ("checks.unit", "5", "`checks.unit` must be a mapping of keys."),
        ("checks.unit", "", "`checks.unit` must be a mapping of keys."),
        ("checks.unit", "{", "The value of `checks.unit` is not valid YAML"),
        ("checks.unit", "{timeout: soon}", "`checks.unit.timeout` must be a whole number from 1 to 86400."),
        ("checks.unit", "{comand: [a]}", "There is no key `checks.unit.comand`. The nearest valid key is"),
        ("checks.a b", "{timeout: 1}", "`checks` must be a mapping whose names are"),
        ("checks.a b.timeout", "1", "`checks` must be a mapping whose names are"),
    ],
)
def test_set_value_refuses_what_does_not_fit_and_changes_nothing(
    project: Path, key: str, value: str, sentence: str
) -> None:
    before = project_file(project).read_bytes()
    with pytest.raises(ConfigError) as caught:
        set_value(project_file(project), key, value)
    assert sentence in str(caught.value)
    assert project_file(project).read_bytes() == before


def test_a_guarded_key_guards_its_row_as_a_whole(project: Path) -> None:
    path = project_file(project)
    path.write_text(CHECKS)
    layer, warnings = read_layer(path, []), list[str]()
    trusted = guarded_keys(layer)
    assert list(trusted) == ["checks.lint", "checks.unit"]
    hold_back(project, path, layer, warnings)
    assert set(layer) == {"work.silence_seconds", "work.setup.inputs", "orchestration.fix_depth"}
    assert "`checks.lint`, `checks.unit` are ignored until you allow it" in warnings[0]

    store = user_config_path().with_name("trust.json")
    store.parent.mkdir()
    store.write_text(json.dumps({str(project): trusted}))
    path.write_text(CHECKS.replace("protect: [tests/]", "protect: []"))  # not the command, yet it is another check
    layer = read_layer(path, [])
    hold_back(project, path, layer, [])
    assert KEYS.build(layer)[0]["checks"] == {"lint": CheckConfig(("ruff", "check"), timeout=5)}


DEMANDS = """\
checks: {unit: {command: [pytest], protect: [tests/]}, lint: {command: [ruff]}}
landing: {checks: [unit], approve: [all], propose: [gh], target: main}
"""


def test_a_word_that_stands_for_everything_needs_no_list(project: Path) -> None:
    project_file(project).write_text("landing: {approve: all}")
    trust(project)
    assert load(project).landing.approve == ("all",)
    assert KEYS["landing.approve"].parse("all") == ("all",)
    with pytest.raises(rules.UnfitError, match="`all`, or a list of at most 100 paths"):
        KEYS["landing.approve"].parse("some")


def test_what_binds_is_missed_when_it_is_changed_or_gone(project: Path) -> None:
    """Whoever can write the file, as an agent beside it can, does not lift what was demanded of the work."""
    path = project_file(project)
    path.write_text(DEMANDS)
    binding = {"checks.unit", "checks.lint", "landing.checks", "landing.approve"}
    config = load(project)
    assert (set(config.withheld), config.checks, config.landing.checks) == (binding, {}, ())
    assert config.landing.target == "main"
    trust(project)
    config = load(project)
    assert (config.withheld, config.warnings) == ((), ())
    assert config.landing.checks == ("unit",)
    assert config.checks["unit"].protect == ("tests/",)

    path.write_text("landing: {checks: [lint], propose: [gh]}\n")  # the one is changed, the others are gone
    config = load(project)
    assert set(config.withheld) == binding
    assert config.landing.checks == ()
    assert set(gone(project)) == binding - {"landing.checks"}
    assert "`landing.checks` is ignored until you allow it" in config.warnings[0]
    assert "`checks.lint`, `checks.unit`, `landing.approve` were allowed and are gone" in config.warnings[1]
    trust(project)  # of whoever may
    assert (load(project).withheld, gone(project), load(project).landing.checks) == ((), [], ("lint",))


def test_what_is_demanded_is_never_where_nothing_was_named(project: Path) -> None:
    trust(project)
    assert load(project).withheld == ()


def test_a_project_changes_nothing_of_a_check_of_the_users_own(project: Path) -> None:
    user_file("checks: {unit: {command: [mine], protect: [tests/]}}\n")
    project_file(project).write_text("checks: {unit: {protect: [], env: [SECRET]}}\n")
    config = load(project)
    assert config.checks["unit"].protect == ("tests/",)
    assert config.checks["unit"].env == ()
    assert config.withheld == ("checks.unit",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("checks: {unit: {command: [a], protect: [/etc]}}", "a list of at most 100 paths within the repository"),
        ("checks: {unit: {command: [a], protect: [a/../../b]}}", "a list of at most 100 paths within the repository"),
        ("work: {keep: [..]}", "a list of at most 100 paths within the repository"),
        ('work: {copy: ["a\\nb"]}', "a list of at most 100 paths within the repository"),
        ("checks: {unit: {command: [a], env: [A=B]}}", "a list of at most 100 names of variables"),
        ("checks: {unit: {command: [a], proofs: none}}", "one of tree, commit"),
        ("landing: {target: -f}", "the name of a branch"),
        ("landing: {target: a..b}", "the name of a branch"),
        ("landing: {target: a.lock}", "the name of a branch"),
        ("landing: {target: 'a@{1}'}", "the name of a branch"),
        ("landing: {target: a/}", "the name of a branch"),
        ("landing: {remote: 'https://evil'}", "the name of a remote"),
        ("landing: {trusted_git: [merge.x]}", "a list of at most 100 hooks and filter.NAME"),
    ],
)
def test_what_leads_elsewhere_is_no_path_branch_or_name(project: Path, text: str, sentence: str) -> None:
    project_file(project).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(project)
    assert f"must be {sentence}" in caught.value.cause


@pytest.mark.parametrize("name", ["main", "loom/landed", "feature/x.y", "über", "a@b", "release-1.2"])
def test_a_branch_is_named_as_in_git(project: Path, name: str) -> None:
    project_file(project).write_text(f"landing: {{target: {name}}}\n")
    assert load(project).landing.target == name
    subprocess.run(["git", "check-ref-format", f"refs/heads/{name}"], check=True)


# --- trust -----------------------------------------------------------------------------------------------------------


GUARDED_TEXT = "skills: {command: 'sh evil.sh', base_url: 'http://evil', provider: command, model: m}\n"


def test_a_cloned_project_runs_nothing_until_trusted(project: Path) -> None:
    path = project_file(project)
    path.write_text(GUARDED_TEXT)
    config = load(project)
    assert (config.skills.command, config.skills.base_url, config.skills.provider) == (None, None, None)
    assert config.skills.model == "m"
    assert config.warnings == (
        f"{path}: `skills.provider`, `skills.base_url`, `skills.command` are ignored until you allow it on this "
        "machine with `loom config trust`.",
    )
    assert not is_trusted(project)

    assert trust(project) == ("skills.provider", "skills.base_url", "skills.command")
    assert is_trusted(project)
    assert load(project).skills.command == "sh evil.sh"
    assert load(project).warnings == ()
    store = user_config_path().with_name("trust.json")
    assert store.stat().st_mode & 0o777 == 0o600
    assert "evil" not in store.read_text()

    path.write_text(GUARDED_TEXT.replace("evil.sh", "worse.sh"))  # a change asks again
    assert load(project).skills.command is None
    assert load(project).skills.base_url == "http://evil"


def test_trust_is_of_one_directory(project: Path, tmp_path: Path) -> None:
    project_file(project).write_text(GUARDED_TEXT)
    trust(project)
    clone = make_project(tmp_path / "clone", GUARDED_TEXT)
    assert load(clone).skills.command is None


@pytest.mark.parametrize("text", ["database: {url: 'postgresql://localhost/d'}", "redis: {url: 'redis://localhost'}"])
def test_addresses_in_a_project_are_guarded(project: Path, text: str) -> None:
    project_file(project).write_text(text)
    assert load(project).servers.backend == "embedded"
    trust(project)
    assert load(project).servers.backend == "external"


def test_docker_counts_only_with_the_compose_file_that_was_trusted(project: Path) -> None:
    project_file(project).write_text("servers: {backend: docker}\n")
    compose = project / "docker-compose.loom.yml"
    compose.write_text("services: {}\n")
    assert load(project).servers.backend == "embedded"
    trust(project)
    assert load(project).servers.backend == "docker"
    compose.write_text("services: {evil: {}}\n")
    assert load(project).servers.backend == "embedded"
    assert trust(project, ["docker-compose.loom.yml"]) == ("docker-compose.loom.yml",)
    assert load(project).servers.backend == "docker"


def test_embedded_in_a_project_needs_no_trust(project: Path) -> None:
    project_file(project).write_text("servers: {backend: embedded}\n")
    assert guarded(project) == {}
    assert load(project).warnings == ()


def test_skills_and_workflows_of_a_project_are_guarded(project: Path) -> None:
    for name in ("skills/plan.md", "workflows/ship.yaml"):
        (project / ".loom" / name).parent.mkdir()
        (project / ".loom" / name).write_text("x")
    assert set(guarded(project)) == {"skills/plan.md", "workflows/ship.yaml"}
    trust(project, ["skills/plan.md"])
    assert is_trusted(project, "skills/plan.md")
    assert not is_trusted(project, "workflows/ship.yaml")
    assert not is_trusted(project, "skills/absent.md")  # it may be there a moment later
    assert is_trusted(project, "skills/plan.md", b"x")
    assert not is_trusted(project, "skills/plan.md", b"y")


def test_what_counts_is_what_was_hashed(project: Path) -> None:
    """A file that changes between two contents is never taken for the one that is trusted."""
    path = project_file(project)
    trusted = GUARDED_TEXT.replace("sh evil.sh", "mine")
    path.write_text(trusted)
    trust(project)
    drafts = [path.with_name("trusted"), path.with_name("evil")]
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for draft, text in zip(drafts, (trusted, GUARDED_TEXT), strict=True):
                draft.write_text(text)
                draft.replace(path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        commands = {load(project).skills.command for _ in range(2_000)}
    finally:
        over.set()
        swapping.join()
    assert commands == {"mine", None}


def test_a_compose_file_that_cannot_be_read_is_not_trusted(project: Path, tmp_path: Path) -> None:
    project_file(project).write_text("servers: {backend: docker}\n")
    compose = project / "docker-compose.loom.yml"
    compose.write_text("services: {}\n")
    trust(project)
    (tmp_path / "elsewhere.yml").write_text("services: {}\n")
    compose.unlink()
    compose.symlink_to(tmp_path / "elsewhere.yml")
    assert load(project).servers.backend == "embedded"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.symlink_to("/dev/zero"), "it leads out of"),
        (lambda path: path.symlink_to("../../home/other.yaml"), "it leads out of"),
        (lambda path: path.write_text("#" * 300_000), "it is larger than 256 kB"),
    ],
)
def test_a_configuration_file_that_is_none_is_refused_by_name(
    project: Path, make: Callable[[Path], object], sentence: str
) -> None:
    path = project_file(project)
    path.unlink()
    other = project.parent / "home" / "other.yaml"
    other.write_text("mcp: {port: 1}\n")
    make(path)
    if path.is_char_device():
        assert find_project(project) is None  # no file at all
    else:
        with pytest.raises(ConfigError, match=sentence):
            load(project)
    with pytest.raises(ConfigError) as caught:
        set_trusted(project, "mcp.port", "2")
    assert f"{path} cannot be read: {sentence}" in caught.value.cause
    assert other.read_text() == "mcp: {port: 1}\n"


def test_setting_a_key_trusts_it_and_nothing_beside_it(project: Path) -> None:
    project_file(project).write_text(GUARDED_TEXT)
    set_trusted(project, "skills.command", "mine")
    config = load(project)
    assert (config.skills.command, config.skills.base_url) == ("mine", None)

    def in_force() -> object:
        layer = read_layer(project_file(project), [])
        hold_back(project, project_file(project), layer, [])
        return KEYS.build(layer)[0]["checks"]

    project_file(project).write_text("checks: {unit: {command: [evil]}}\n")
    set_trusted(project, "checks.unit.timeout", "5")  # which says nothing about the command
    assert in_force() == {}
    set_trusted(project, "checks.unit", "{command: [mine], timeout: 5}")
    assert in_force() == {"unit": CheckConfig(("mine",), timeout=5)}
    set_trusted(project, "checks.unit.timeout", "6")
    assert in_force() == {"unit": CheckConfig(("mine",), timeout=6)}
    set_trusted(project, "checks.lint.command", "[ruff]")
    assert in_force() == {"unit": CheckConfig(("mine",), timeout=6), "lint": CheckConfig(("ruff",))}


@pytest.mark.parametrize("damage", ["", "[", "[]", '{"/x": 5}'])
def test_a_damaged_trust_store_trusts_nothing(project: Path, damage: str) -> None:
    project_file(project).write_text(GUARDED_TEXT)
    trust(project)
    store = user_config_path().with_name("trust.json")
    store.write_text(damage)
    assert not is_trusted(project)
    trust(project)
    assert json.loads(store.read_text())[str(project)]
