"""Skills: Markdown files with YAML front matter, found in three places, later wins.

    ---
    name: estimate_complexity
    description: One sentence that says what for and when.
    version: 1.0.0
    inputs:
      task: {type: object, description: The task, required: true}
    outputs: {type: object, required: [size], properties: {size: {type: string}}}
    max_tokens: 2000
    ---
    The template, Jinja2 as far as `template.py` has it.

The places are Loom's own, `~/.loom/skills` and the project's `.loom/skills`. A file of the project that takes the place
of another skill, or that names a provider, counts only once it is trusted (`loom config trust`).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn

from loom.config import LoomConfig, is_trusted, user_config_path
from loom.exceptions import InvalidInputError, SkillError, SkillNotFoundError
from loom.graph import limits

FILE_BYTES = 256 * 1024
_FILES = 500  # in one place
INPUTS_BYTES = 900_000
PROVIDERS = ("agent", "command", "anthropic", "openai")
KEYS = ("name", "description", "version", "inputs", "outputs", "provider", "model", "temperature", "max_tokens")
_FOREIGN = ("license", "compatibility", "metadata", "allowed-tools")  # what Agent Skills may have beside
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_INPUT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FENCE = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?\n(.*)\Z", re.DOTALL | re.MULTILINE)
_TYPES: Mapping[str, tuple[type[Any], ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
# What would let a schema fetch something, or take for ever over an answer.
_REFUSED = ("$ref", "$dynamicRef", "$recursiveRef", "pattern", "patternProperties", "uniqueItems")
_SCHEMA_DEPTH = 20


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a skill. `type` is one of JSON schema's; without `required` a missing one is `default`."""

    name: str
    type: str
    description: str
    required: bool
    default: Any


@dataclass(frozen=True)
class Skill:
    """One skill. `source` is built-in, user or project, `place` names its file in errors."""

    name: str
    description: str
    version: str
    inputs: tuple[Input, ...]
    outputs: dict[str, Any]
    template: str
    source: str
    place: str
    provider: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None

    def accept(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with their defaults. Raises InvalidInputError that names what is missing, unknown or wrong."""
        known = {one.name: one for one in self.inputs}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                raise InvalidInputError(
                    f"The skill {self.name} has no input {limits.quote(str(name))}.",
                    f"Did you mean {near[0]}?" if near else f"It takes {', '.join(known) or 'none'}.",
                )
        values: dict[str, Any] = {}
        for name, one in known.items():
            if (value := given.get(name)) is None:
                if one.required:
                    about = f": {one.description}" if one.description else ""
                    raise InvalidInputError(
                        f"The skill {self.name} needs the input {name} ({one.type}){about}", f"Pass {name} in inputs."
                    )
                value = one.default
            elif not _fits(value, one.type):
                raise InvalidInputError(
                    f"The input {name} of {self.name} must be of type {one.type}, not {limits.kind(value)}.",
                    f"Pass {name} as {one.type}.",
                )
            values[name] = value
        limits.json_object(values, "inputs", INPUTS_BYTES)
        return values

    def render(self, values: Mapping[str, Any]) -> str:
        """The prompt for accepted inputs. Raises SkillError."""
        from loom.skills import template

        return template.render(self.template, values, where=self.place)


@dataclass(frozen=True)
class Library:
    """All skills that count here, by name. `notes`: sentences about files that do not, and why."""

    skills: Mapping[str, Skill]
    notes: tuple[str, ...] = field(default=())

    def get(self, name: str) -> Skill:
        """The skill of that name. Raises SkillNotFoundError."""
        if name in self.skills:
            return self.skills[name]
        near = difflib.get_close_matches(name, self.skills, 1)
        raise SkillNotFoundError(
            f"There is no skill {limits.quote(name)}.",
            f"Did you mean {near[0]}?" if near else f"There are {', '.join(self.skills)}.",
        )


def load(config: LoomConfig) -> Library:
    """Reads the skills of all three places. A file that is not in order is left out and has a note, so that it takes
    nothing with it; `parse` tells what is wrong with one."""
    found: dict[str, Skill] = {}
    notes: list[str] = []
    project = config.project_dir
    for file in _files(resources.files("loom.skills").joinpath("builtin")):
        skill = parse(file.read_text("utf-8"), f"built-in {file.name}", "built-in")
        found[skill.name] = skill
    places: list[tuple[str, Path, Path | None]] = [("user", user_config_path().parent / "skills", None)]
    if project is not None:
        places.append(("project", project / ".loom" / "skills", project))
    for source, directory, root in places:
        for file in _files(directory):
            try:
                skill = parse(_text(Path(str(file)), directory), str(file), source)
                if root is not None:
                    _must_be_trusted(skill, found, root, f"skills/{file.name}")
            except SkillError as error:
                notes.append(str(error))
            else:
                found[skill.name] = skill
    return Library(dict(sorted(found.items())), tuple(notes))


def parse(text: str, place: str, source: str = "user") -> Skill:
    """Reads the text of one skill. Raises SkillError that names the file and the key."""
    reader = _Reader(place)
    if len(text) > FILE_BYTES or len(text.encode(errors="replace")) > FILE_BYTES:
        reader.refuse(f"is larger than {FILE_BYTES // 1024} kB")
    match = _FENCE.match(text)
    if match is None:
        reader.refuse("does not begin with YAML front matter between two lines ---")
    facts = reader.facts(match[1])
    name = reader.text(facts, "name")
    if not _NAME.fullmatch(name):
        reader.refuse(f"`name` {limits.quote(name)} is not up to 64 of a-z, 0-9, _ and -")
    skill = Skill(
        name=name,
        description=reader.text(facts, "description"),
        version=reader.text(facts, "version", "1"),
        inputs=reader.inputs(facts.get("inputs")),
        outputs=reader.schema(facts.get("outputs")),
        template=match[2],
        source=source,
        place=place,
        provider=reader.choice(facts, "provider", PROVIDERS),
        model=reader.text(facts, "model", "") or None,
        temperature=reader.number(facts, "temperature", 0, 2),
        max_tokens=None if (most := reader.number(facts, "max_tokens", 1, 1_000_000)) is None else int(most),
    )
    if not skill.template.strip():
        reader.refuse("has no text below its front matter")
    if source != "built-in":  # of those the tests know, and what checks them takes half a second to import
        from loom.skills import answers, template

        if unknown := template.names(skill.template, where=place) - {one.name for one in skill.inputs}:
            reader.refuse(f"the template uses {', '.join(sorted(unknown))}, which `inputs` does not name")
        if fault := answers.fault_of(skill.outputs):
            reader.refuse(f"`outputs` is not a valid JSON schema: {fault}")
    return skill


def _must_be_trusted(skill: Skill, others: Mapping[str, Skill], root: Path, name: str) -> None:
    if (skill.name in others or skill.provider) and not is_trusted(root, name):
        why = f"replaces the {others[skill.name].source} skill" if skill.name in others else "names a provider"
        raise SkillError(
            f"{skill.place}: it {why}{f' {skill.name}' if skill.name in others else ''} and is ignored until you allow"
            " it on this machine.",
            "Read it, then run `loom config trust`.",
        )


def _files(directory: Traversable) -> list[Traversable]:
    if not directory.is_dir():
        return []
    found = (file for file in directory.iterdir() if file.name.endswith(".md"))
    return sorted(found, key=lambda file: file.name)[:_FILES]


def _text(file: Path, directory: Path) -> str:
    if not file.resolve().is_relative_to(directory.resolve()) or not file.is_file():
        raise SkillError(f"{file}: it is not a file of this directory.", "Put the file itself there.")
    try:
        with file.open("rb") as stream:
            return stream.read(FILE_BYTES + 1).decode()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SkillError(f"{file} cannot be read: {why}.", "Correct the file.") from None


def _fits(value: object, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, _TYPES[kind])


class _Reader:
    """Reads front matter; every refusal names the file."""

    def __init__(self, place: str) -> None:
        self._place = place

    def refuse(self, what: str, advice: str = "Correct the file.") -> NoReturn:
        """Raises the error that names this file."""
        raise SkillError(f"{self._place}: {what}.", advice)

    def facts(self, text: str) -> dict[str, Any]:
        """The front matter as a mapping with known keys."""
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
                self.refuse("the front matter uses a YAML alias", "Write the value itself there.")
            facts = yaml.load(text, loader)  # one of the two safe loaders
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            self.refuse(f"the front matter is not valid YAML{f' in line {mark.line + 2}' if mark else ''}")
        if not isinstance(facts, dict):
            self.refuse("the front matter is not a mapping of keys")
        for key in facts:
            if key not in KEYS and key not in _FOREIGN:
                near = difflib.get_close_matches(str(key), KEYS, 1)
                self.refuse(
                    f"there is no key `{str(key)[:60]}`",
                    f"Did you mean `{near[0]}`?" if near else f"Use {', '.join(KEYS)}.",
                )
        return facts

    def text(self, facts: Mapping[str, Any], key: str, default: str | None = None) -> str:
        """A text on one line; a version may look like a number."""
        value = facts.get(key, default)
        if key == "version" and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if value is None:
            self.refuse(f"`{key}` is missing")
        if not isinstance(value, str) or len(value) > 1024 or (not value.strip() and default is None):
            self.refuse(f"`{key}` must be a text of 1 to 1,024 characters")
        return " ".join(value.split())

    def number(self, facts: Mapping[str, Any], key: str, low: float, high: float) -> float | None:
        """A number between two bounds, or None."""
        value = facts.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.refuse(f"`{key}` must be a number from {low:g} to {high:g}")
        return float(value)

    def choice(self, facts: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str | None:
        """One of some words, or None."""
        value = facts.get(key)
        if value is not None and value not in choices:
            self.refuse(f"`{key}` must be one of {', '.join(choices)}")
        return value

    def inputs(self, given: object) -> tuple[Input, ...]:
        """The inputs, in their order."""
        if given is None:
            return ()
        if not isinstance(given, dict):
            self.refuse("`inputs` must be a mapping of names")
        return tuple(self._input(name, facts) for name, facts in given.items())

    def _input(self, name: object, facts: object) -> Input:
        key = f"inputs.{str(name)[:60]}"
        if not isinstance(name, str) or not _INPUT_NAME.fullmatch(name):
            self.refuse(f"`{key}` is not a name of a-z, 0-9 and _")
        if not isinstance(facts, dict):
            self.refuse(f"`{key}` must be a mapping of type, description, default and required")
        for one in facts:
            if one not in ("type", "description", "default", "required"):
                self.refuse(f"`{key}` has no key `{str(one)[:60]}`", "Use type, description, default and required.")
        kind, required = facts.get("type", "string"), facts.get("required", "default" not in facts)
        if kind not in _TYPES:
            self.refuse(f"`{key}.type` must be one of {', '.join(_TYPES)}")
        if not isinstance(required, bool):
            self.refuse(f"`{key}.required` must be true or false")
        default = facts.get("default")
        if default is not None and not _fits(default, kind):
            self.refuse(f"`{key}.default` is not of type {kind}")
        try:
            json.dumps(default)
        except (TypeError, ValueError):
            self.refuse(f"`{key}.default` is nothing that JSON has")
        description = self.text(facts, "description", "")
        return Input(name, kind, description, required, _TYPES[kind][0]() if default is None else default)

    def schema(self, given: object) -> dict[str, Any]:
        """The schema of the answer, which is an object."""
        if not isinstance(given, dict) or given.get("type") != "object":
            self.refuse("`outputs` must be a JSON schema of type object")
        waiting: list[tuple[Any, str, int]] = [(given, "outputs", 0)]
        while waiting:
            one, path, depth = waiting.pop()
            if depth > _SCHEMA_DEPTH:
                self.refuse(f"`{path[:80]}` is nested more than {_SCHEMA_DEPTH} deep")
            if isinstance(one, dict):
                for name in one:
                    if name in _REFUSED and not path.endswith(".properties"):
                        self.refuse(f"`{path[:80]}` uses {name}, which skills do not have")
                waiting += ((part, f"{path}.{name}", depth + 1) for name, part in one.items())
            elif isinstance(one, list):
                waiting += ((part, path, depth + 1) for part in one)
        return given
