"""Which checks are in force, what their proofs are known by, and which paths they protect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loom.config import CheckConfig, LoomConfig, SetupConfig, WorkConfig
from loom.exceptions import ConfigError
from loom.landing import checks

UNIT = CheckConfig(("pytest", "-q"), protect=("tests/",), env=("LOOM_TEST_A",))
CONFIG = LoomConfig(checks={"unit": UNIT, "lint": CheckConfig(("ruff",), protect=("ruff.toml", "tests/"))})


def test_what_is_withheld_is_not_in_force_whoever_else_names_it() -> None:
    assert list(checks.in_force(CONFIG)) == ["unit", "lint"]
    assert list(checks.in_force(replace(CONFIG, withheld=("checks.unit", "landing.checks")))) == ["lint"]


def test_a_digest_changes_with_what_makes_it_another_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(config: LoomConfig) -> str:
        return checks.in_force(config)["unit"].digest

    first = digest(CONFIG)
    assert digest(replace(CONFIG, checks={"unit": replace(UNIT, timeout=1, protect=())})) == first
    for changed in (
        replace(UNIT, command=("pytest",)),
        replace(UNIT, keep=(".cache",)),
        replace(UNIT, proofs="commit"),
    ):
        assert digest(replace(CONFIG, checks={"unit": changed})) != first
    assert digest(replace(CONFIG, work=WorkConfig(setup=SetupConfig(("uv", "sync"))))) != first
    monkeypatch.setenv("LOOM_TEST_A", "1")
    with_one = digest(CONFIG)
    monkeypatch.setenv("LOOM_TEST_A", "2")
    assert len({first, with_one, digest(CONFIG)}) == 3
    assert "LOOM_TEST_A" not in repr(checks.in_force(CONFIG)["unit"])


def test_the_key_of_a_model_is_passed_on_to_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_SKILLS_API_KEY", "sk-1")
    named = LoomConfig(checks={"unit": replace(UNIT, env=("LOOM_SKILLS_API_KEY",))})
    assert checks.in_force(named)["unit"].variables == {}


def test_what_is_protected_is_not_known_while_a_check_is_not_in_force() -> None:
    assert checks.protected(LoomConfig()) == (".loom",)
    assert checks.protected(CONFIG) == (".loom", "tests/", "ruff.toml")
    with pytest.raises(ConfigError, match=r"a check is not in force: checks\.lint"):
        checks.protected(replace(CONFIG, withheld=("checks.lint",)))
