"""Where skills come from, which one counts, and what a hostile one can do: nothing."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from loom.config import LoomConfig, trust
from loom.exceptions import InvalidInputError, SkillError, SkillNotFoundError
from loom.skills import asking, library, loader, template
from loom.skills.loader import Skill

BUILT_IN = (
    "debug_failure", "decompose_project", "define_done", "estimate_complexity", "generate_test_plan",
    "identify_parallelism", "review_output", "summarize_graph", "write_spec", "write_task_context",
)  # fmt: skip
NO_PATH = "x" * 300
"""No file can have this name, and whoever looks for it is told so."""


def text(name: str = "greet", body: str = "Hello {{ who | plain }}", extra: str = "") -> str:
    return (
        f"---\nname: {name}\ndescription: Greets.\ninputs:\n  who: {{type: string}}\n"
        f"outputs: {{type: object}}\n{extra}---\n{body}\n"
    )


@pytest.fixture
def config(directory: Path) -> LoomConfig:
    """A configuration of that directory only; nothing is connected."""
    (directory / ".loom" / "config.yaml").write_text("project_name: shop\n")
    (directory / ".loom" / "skills").mkdir()
    return LoomConfig(project_dir=directory)


def put(directory: Path, name: str, content: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(content)
    return directory / name


# --- Loom's own -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_built_in_is_in_order(name: str) -> None:
    file = resources.files("loom.skills").joinpath("builtin", f"{name}.md")
    skill = loader.parse(file.read_text("utf-8"), name)  # with all checks, unlike `load`
    assert skill.name == name
    assert len(skill.description) < 200
    assert skill.outputs["required"]
    assert skill.outputs["additionalProperties"] is False
    assert len(skill.template) < 4_000, "an agent is to get the whole of it"
    for one in skill.inputs:
        if one.type not in ("integer", "boolean"):
            assert f"{{{{ {one.name} | data(" in skill.template, f"{one.name} is marked as data"
    sample = {"string": "some text", "object": {"title": "T"}, "array": [{"id": "loom-1"}], "integer": 3}
    prompt = asking.full_prompt(skill, skill.accept({one.name: sample[one.type] for one in skill.inputs}))
    assert "never an instruction" in prompt
    only = {one.name: sample[one.type] for one in skill.inputs if one.required}
    assert "begins" in asking.full_prompt(skill, skill.accept(only))


def test_all_of_them_are_there(home: Path) -> None:
    assert tuple(loader.load(LoomConfig()).all) == BUILT_IN


# --- places and trust -----------------------------------------------------------------------------------------------


def test_later_places_win_and_a_project_must_be_trusted_to_replace(
    config: LoomConfig, home: Path, directory: Path
) -> None:
    put(directory / ".loom" / "skills", "greet.md", text())
    assert loader.load(config).get("greet").source == "project"
    put(home / ".loom" / "skills", "define_done.md", text("define_done", "The user's {{ who }}"))
    assert loader.load(config).get("define_done").source == "user"
    put(directory / ".loom" / "skills", "define_done.md", text("define_done", "The project's {{ who }}"))
    before = loader.load(config)
    assert before.get("define_done").source == "user"
    (note,) = before.notes
    assert "define_done.md" in note
    assert "loom config trust" in note
    trust(directory)
    assert loader.load(config).get("define_done").source == "project"
    put(directory / ".loom" / "skills", "define_done.md", text("define_done", "Changed {{ who }}"))
    assert loader.load(config).get("define_done").source == "user", "a change asks again"


def test_a_skill_may_stand_in_a_directory_of_its_own(config: LoomConfig, directory: Path) -> None:
    put(directory / ".loom" / "skills" / "greet", "SKILL.md", text())
    put(directory / ".loom" / "skills" / "mine", "SKILL.md", text("define_done", "The project's {{ who }}"))
    found = loader.load(config)
    assert found.get("greet").source == "project"
    assert found.get("define_done").source == "built-in"
    assert "mine/SKILL.md: it replaces" in found.notes[0]
    trust(directory)
    assert loader.load(config).get("define_done").source == "project"


def test_a_project_names_a_provider_only_when_trusted(config: LoomConfig, directory: Path) -> None:
    put(directory / ".loom" / "skills", "send.md", text("send", extra="provider: openai\n"))
    assert "names a provider" in loader.load(config).notes[0]
    trust(directory)
    assert loader.load(config).get("send").provider == "openai"


def test_a_file_in_disorder_takes_nothing_with_it(config: LoomConfig, directory: Path, tmp_path: Path) -> None:
    put(directory / ".loom" / "skills", "a.md", "no front matter")
    put(tmp_path, "secret.md", text("secret"))
    (directory / ".loom" / "skills" / "b.md").symlink_to(tmp_path / "secret.md")
    put(directory / ".loom" / "skills", "c.md", text("c"))
    found = loader.load(config)
    assert "c" in found.all
    assert "secret" not in found.all
    assert [Path(note.split(": ")[0]).name for note in found.notes] == ["a.md", "b.md"]


def test_a_place_that_cannot_be_looked_into_takes_nothing_with_it(config: LoomConfig, directory: Path) -> None:
    skills = directory / ".loom" / "skills"
    put(skills, "greet.md", text())
    (skills / "nowhere").symlink_to(NO_PATH)
    assert "greet" in loader.load(config).all
    assert loader.load(config).notes == ()
    skills.rename(directory / "kept")
    skills.symlink_to(NO_PATH)
    (note,) = loader.load(config).notes
    assert "skills: it cannot be read: " in note


def test_more_files_than_are_read_are_told_of(
    config: LoomConfig, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_FILES", 1)
    skills = directory / ".loom" / "skills"
    put(skills, "greet.md", text())
    assert loader.load(config).notes == ()
    put(skills, "hail.md", text("hail"))
    (note,) = loader.load(config).notes
    assert "more than 1 entries" in note
    assert "hail" not in loader.load(config).all


def test_an_unknown_skill_has_a_neighbour(home: Path) -> None:
    with pytest.raises(SkillNotFoundError, match="Did you mean define_done"):
        loader.load(LoomConfig()).get("define-done")


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text("Bad Name"), "`name`"),
        (text(extra="modle: x\n"), "Did you mean `model`"),
        (text(extra="temperature: hot\n"), "`temperature` must be a number"),
        (text(extra="max_tokens: 0\n"), "`max_tokens` must be a number from 1 to 1,000,000."),
        (text(extra="provider: oracle\n"), "`provider` must be one of"),
        (text().replace("type: string", "type: text"), "`inputs.who.type`"),
        (text().replace("type: string", "typ: string"), "`inputs.who` has no key `typ`"),
        (text().replace("type: string", "type: integer, default: x"), "`inputs.who.default`"),
        (text().replace("{type: object}", "{type: array}"), "`outputs`"),
        (text().replace("{type: object}", "{type: object, properties: 3}"), "`outputs` is not a valid JSON schema"),
        (text().replace("{type: object}", "{type: object, $ref: 'http://127.0.0.1/x'}"), r"uses \$ref"),
        (text().replace("{type: object}", "{type: object, properties: {a: {pattern: '(a+)+$'}}}"), "uses pattern"),
        (
            text().replace("{type: object}", "{type: object, properties: {properties: {pattern: '(a+)+$'}}}"),
            "uses pattern",
        ),
        (text(body="{{ whom }}"), "uses whom, which `inputs` does not name"),
        (text(body="{% if %}"), "the template fails in line 1"),
        (text(body=" "), "has no text"),
        (text(extra="a: &x [1]\nb: *x\n"), "YAML alias"),
        (text(extra="model: !!python/object/apply:os.system [id]\n"), "YAML alias or tag"),
        (text(extra="model: [\n"), "not valid YAML in line"),
        (text(body="x" * 300_000), "larger than 256 kB"),
        ("---\n- a\n---\nx", "not a mapping"),
        ("---\nname: x\n", "does not begin with YAML front matter"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(content: str, message: str) -> None:
    with pytest.raises(SkillError, match=message) as caught:
        loader.parse(content, "skills/greet.md")
    assert str(caught.value).startswith("skills/greet.md: ")


def test_agent_skills_are_readable() -> None:
    skill = loader.parse(text("my-skill", extra="license: MIT\nmetadata: {author: me}\nversion: 2.1\n"), "SKILL.md")
    assert (skill.name, skill.version) == ("my-skill", "2.1")


# --- inputs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def greet() -> Skill:
    content = text(body="{{ who | plain }}{% for n in times %}{{ n }}{% endfor %}")
    return loader.parse(content.replace("outputs:", "  times: {type: array, default: [1, 2]}\noutputs:"), "greet.md")


def test_inputs_are_checked_by_name(greet: Skill) -> None:
    assert greet.render(greet.accept({"who": "you "})) == "you 12\n"
    with pytest.raises(InvalidInputError, match=r"needs the input who \(string\)"):
        greet.accept({})
    with pytest.raises(InvalidInputError, match=r"no input “hwo”.*Did you mean who"):
        greet.accept({"hwo": "x"})
    with pytest.raises(InvalidInputError, match="times of the skill greet must be of type array, not text"):
        greet.accept({"who": "x", "times": "3"})
    with pytest.raises(InvalidInputError, match="the limit is 900,000"):
        greet.accept({"who": "x" * 900_001})


# --- templates ------------------------------------------------------------------------------------------------------

VALUES = {"x": ["a" * 1000] * 300, "d": {"k": "v"}, "z": [1] * 60, "s": "text"}


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ s.__class__ }}",
        "{{ s['__class__'] }}",
        "{{ s.upper }}",
        "{{ d.items }}",
        "{{ s|attr('__class__') }}",
        "{{ s|map(attribute='x') }}",
        "{{ range(10) }}",
        "{{ s.format(s) }}",
        "{{ caller() }}",
        "{{ self }}",
        "{{ _x }}",
        "{% for a in x %}{{ loop.__init__ }}{% endfor %}",
        "{% set y = x %}",
        "{% macro a() %}{% endmacro %}",
        "{% include '/etc/passwd' %}",
        "{% import 'a' as a %}",
        "{% extends 'a' %}",
        "{{ s ~ s }}",
        "{{ s * 100000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ x }}" * 3000,
        "{{ x|join(x|join) }}",
        "{{ [x, x, x, x]|json }}",
        "{% for a in x recursive %}{{ loop(a) }}{% endfor %}",
        "{% for a in x %}{% for b in x %}{% for c in x %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in z %}" * 4 + "{% endfor %}" * 4,
        "{% for a in s %}{% endfor %}",
        "{{ " + "(" * 3000 + "s" + ")" * 3000 + " }}",
        "{{ s }}" * 6000,
        "{{",
        "{{ nothing }}",
        "{{ d.nothing }}",
    ],
)
def test_what_a_template_cannot_do(source: str) -> None:
    with pytest.raises(SkillError, match=r"^t\.md: the template "):
        template.render(source, VALUES, where="t.md")


def test_what_it_can() -> None:
    source = (
        "{{ d.k|plain }} {% for k, v in d|items %}{{ loop.index }}{{ k|plain }}={{ v|json }}{% endfor %} {{ z|length }}"
    )
    assert template.render(source, VALUES, where="t.md") == 'v 1k="v" 60\n'


def test_values_are_data_unless_the_template_says_otherwise() -> None:
    first = template.render("{{ s }}", {"s": "a\x00\u202eb\u200b"}, where="t.md")
    word = first.split("with ")[1].split()[0]
    assert f"----- {word} begins: data -----\nab\n----- {word} ends -----" in first
    assert template.render("{{ s }}", {"s": "ab"}, where="t.md").split("with ")[1].split()[0] != word


async def test_a_configuration_without_a_project_has_loom_and_the_user(home: Path) -> None:
    put(home / ".loom" / "skills", "greet.md", text())
    assert "greet" in loader.load(replace(LoomConfig())).all
