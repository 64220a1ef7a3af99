"""Where workflows come from, which one counts, and what is refused in a file, by its name, step and key."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from loom.config import LoomConfig, trust
from loom.exceptions import InvalidInputError, WorkflowError, WorkflowNotFoundError
from loom.skills import loader as skills
from loom.workflows import loader, values
from tests.workflows.conftest import SKILL, flow, put, source

BUILT_IN = ("debug_and_fix", "ship_feature")
ASK = "- {id: ask, type: confirm, message: Go on?}"
COMMAND = "- {id: make, type: action, action: run_command, inputs: {words: [make]}}"
DEEP = 30_000  # the parser of YAML that is written in C dies of it


@pytest.fixture
def config(directory: Path) -> LoomConfig:
    """A configuration of that directory only; nothing is connected."""
    (directory / ".loom" / "config.yaml").write_text("project_name: shop\n")
    return LoomConfig(project_dir=directory)


# --- Loom's own -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_built_in_is_in_order(name: str, home: Path) -> None:
    text = resources.files("loom.workflows").joinpath("builtin", f"{name}.yaml").read_text("utf-8")
    workflow = loader.parse(text, name)  # with all checks, unlike `load`
    assert workflow.name == name
    assert len(workflow.description) < 200
    loader.check_skills(workflow, skills.load(LoomConfig()))
    assert workflow.commands == []
    kinds = [str(step.type) for step in workflow.steps]
    assert kinds.index("confirm") < kinds.index("wait"), "a person agrees before anything is written"
    assert not any(step.facts.get("agents") for step in workflow.steps)
    assert tuple(loader.load(LoomConfig()).all) == BUILT_IN


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("", "`steps` must be a list of at least one step"),
        ("- just a text", "step 1 is not a mapping"),
        ("- {type: confirm, message: x}", "step 1, `id` is missing"),
        ("- {id: A b, type: confirm, message: x}", "step 1, `id` “A b” is not up to 64 of a-z"),
        ("- {id: [a], type: confirm, message: x}", "step 1, `id` must be a text"),
        ("- {id: end, type: confirm, message: x}", "step 1, `id` end has a meaning of its own"),
        (f"{ASK}\n{ASK}", "step 2: `id` ask is taken"),
        ("- {id: a, message: x}", "step a, `type` is missing. Use one of skill, action, confirm, condition, wait"),
        ("- {id: a, type: confirmation, message: x}", "step a, `type` must be one of skill, action"),
        ("- {id: a, type: {}}", "step a, `type` must be one of"),
        ("- {id: a, type: confirm, message: x, agent: true}", "step a, there is no key `agent`. Did you mean `agents`"),
        ("- {id: a, type: confirm, message: x, seconds: 1}", "step a, there is no key `seconds`"),
        ("- {id: a, type: confirm, message: x, agents: 1}", "step a, `agents` must be true or false"),
        ("- {id: a, type: confirm, message: x, show: [1]}", "step a, `show` must be a mapping"),
        ("- {id: a, type: confirm}", "step a, `message` is missing"),
        ("- {id: a, type: confirm, message: x, timeout: 0}", "step a, `timeout` must be a number from 1 to"),
        ("- {id: a, type: confirm, message: x, timeout: .inf}", "step a, `timeout` must be a number"),
        ("- {id: a, type: confirm, message: x, timeout: true}", "step a, `timeout` must be a number"),
        # values that no run could keep
        ('- {id: a, type: confirm, message: "x\\0"}', "step a, `message` has a NUL character"),
        # skills and actions
        ("- {id: a, type: skill}", "step a, `skill` is missing"),
        ("- {id: a, type: skill, skill: define_done, inputs: 1}", "step a, `inputs` must be a mapping"),
        ("- {id: a, type: action}", "step a, `action` is missing. Use one of plan, write_plan"),
        ("- {id: a, type: action, action: rm}", "step a, `action` must be one of plan, write_plan"),
        ("- {id: a, type: action, action: send_message, inputs: {to: x}}", "step a, `inputs.message` is missing"),
        (
            "- {id: a, type: action, action: send_message, inputs: {to: x, mesage: y}}",
            "step a, `inputs`: the action send_message does not take it: there is no key `mesage`. Did you mean `mess",
        ),
        (
            "- {id: a, type: action, action: create_tasks, inputs: {tasks: one}}",
            "step a, `inputs.tasks` must be of type array",
        ),
        # which program runs stands in the file
        (
            "- {id: a, type: action, action: run_command, inputs: {words: ['{{ inputs }}']}}",
            "step a, `inputs.words`: which program runs must stand in the file",
        ),
        (
            "- {id: a, type: action, action: run_command, inputs: {words: ['./{{ inputs }}', x]}}",
            "step a, `inputs.words`: which program runs must stand in the file",
        ),
        (
            "- {id: a, type: action, action: run_command, inputs: {words: '{{ inputs }}'}}",
            "step a, `inputs.words`: which program runs must stand in the file",
        ),
        # conditions and waits
        ("- {id: a, type: condition, if: inputs}", "step a, `then` and `else` are missing"),
        ("- {id: a, type: condition, then: end}", "step a, `if` is missing"),
        ("- {id: a, type: condition, if: true, then: end}", "step a, `if` must be an expression"),
        ("- {id: a, type: condition, if: '{{ inputs }}', then: end}", "step a, `if`: the expression fails"),
        ("- {id: a, type: condition, if: inputs, else: fail}", "step a, `message` is missing"),
        (f"{ASK}\n- {{id: a, type: condition, if: inputs, then: ask}}", "step a, `then`: “ask” is no step further"),
        ("- {id: a, type: condition, if: inputs, then: a}", "step a, `then`: “a” is no step further down. Use end"),
        ("- {id: a, type: condition, if: inputs, then: [end]}", "step a, `then`: “['end']” is no step"),
        ("- {id: a, type: wait}", "step a, `tasks` or `seconds` must be there"),
        ("- {id: a, type: wait, seconds: 1, tasks: loom-00000000}", "step a, `tasks` or `seconds` must be there"),
        ("- {id: a, type: wait, seconds: -1}", "step a, `seconds` must be a number from 0"),
        ("- {id: a, type: wait, tasks: 7}", "step a, `tasks` must be the id of a task"),
        ("- {id: a, type: wait, seconds: 1, dead: ignore}", "step a, `dead` must be one of wait, fail"),
        # what expressions see
        ("- {id: a, type: confirm, message: 'x {{ inputs.goal'}", "step a, `message`: an expression has no end"),
        ("- {id: a, type: confirm, message: '{{ inputs.gaol }}'}", "step a, `message` uses inputs.gaol, which"),
        ("- {id: a, type: confirm, message: x, show: {b: ['{{ steps.a }}']}}", "step a, `show`.b[0] uses steps.a"),
        (f"- {{id: a, type: confirm, message: '{{{{ steps.ask.by }}}}'}}\n{ASK}", "step a, `message` uses steps.ask"),
        ("- {id: a, type: condition, if: goal == 1, then: end}", "step a, `if` uses goal. An expression sees inputs"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_step_and_key(steps: str, told: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        loader.parse(source(steps, "goal: {type: string}"), "place/trial.yaml")
    assert str(caught.value).startswith("place/trial.yaml: ")
    assert told in str(caught.value)
    assert caught.value.next_step
    assert len(str(caught.value)) < 400


def test_what_other_readers_take_for_more_stays_a_text() -> None:
    shown = loader.parse(
        source("- {id: a, type: confirm, message: x, show: {1: 2030-01-01, n: .nan, b: no}}"), "trial.yaml"
    )
    assert shown.steps[0].facts["show"] == {"1": "2030-01-01", "n": ".nan", "b": "no"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "it is not a mapping"),
        ("name: [", "not valid YAML in line 2"),
        (source(ASK) + "authors: me", "there is no key `authors`"),
        (source(ASK) + "descripton: me", "there is no key `descripton`. Did you mean `description`?"),
        (source(ASK).replace("trial", "../trial"), "`name` “../trial” is not"),
        (source(ASK, "Goal: {}"), "`inputs.Goal` is not a name"),
        (source(ASK, "goal: text"), "`inputs.goal` must be a mapping"),
        (source(ASK, "goal: {type: text}"), "`inputs.goal.type` must be one of string"),
        (source(ASK, "goal: {type: integer, default: x}"), "`inputs.goal.default` is not of type integer"),
        (source(ASK, "goal: {type: number, default: .inf}"), "`inputs.goal.default` is not of type number"),
        (source("- &a {id: a, type: confirm, message: x}\n- *a"), "uses a YAML alias"),
        (
            source("- id: a\n  type: confirm\n  message: x\n  message: y"),
            "has the key `message` twice in line 7",
        ),
        (source("- !!python/object/apply:os.system ['true']"), "YAML alias or tag in line 4"),
        (source(ASK) + "#" * 257 * 1024, "larger than 256 kB"),
        (source("\n".join(ASK.replace("ask", f"a{n}") for n in range(101))), "`steps` has 101 steps; the limit is 100"),
        (source(f"- {{id: a, type: confirm, message: x, show: {{x: {'[' * DEEP}{']' * DEEP}}}}}"), "more than 32 deep"),
        (source(f"- {{id: a, type: confirm, message: x, show: {'{a: ' * DEEP}1{'}' * DEEP}}}"), "more than 32 deep"),
        (
            source("- {id: a, type: confirm, message: x, show: {x: [" + "'{{inputs}}'," * 1001 + "]}}"),
            "more than 1,000 values",
        ),
    ],
    ids=lambda value: value[:40],
)
def test_whole_files_are_refused(text: str, told: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        loader.parse(text, "trial.yaml")
    assert str(caught.value).startswith("trial.yaml: ")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        "inputs.__class__",
        "''.__class__.__mro__",
        "inputs.goal.format(1)",
        "inputs.items()",
        "(1).bit_length()",
        "inputs | attr('x')",
        "inputs | map(attribute='x')",
        "[inputs] | _counted",
        "range(9)",
        "lipsum",
        "self",
        "1 + 1",
        "'a' * 1000000",
        "9 ** 9 ** 9",
        "inputs ~ inputs",
        "{'a': 1}",
        "inputs[1:2]",
        "inputs; inputs",
        "inputs }} {{ inputs",
        "(" * 400 + "1" + ")" * 400,
        "1 if " * 180,
    ],
)
def test_what_an_expression_cannot_do(expression: str) -> None:
    with pytest.raises(WorkflowError, match=r"^trial\.yaml: step a, `if`"):
        flow(f"- {{id: a, type: condition, if: {expression!r}, then: end}}", "goal: {type: string}")


def test_an_expression_has_its_limits() -> None:
    with pytest.raises(WorkflowError, match=r"step a, `show`.x: the expression is longer than 2,000 characters"):
        flow(f"- {{id: a, type: confirm, message: x, show: {{x: '{{{{ [{'inputs,' * 300}] }}}}'}}}}")


@pytest.mark.parametrize("expression", ["not " * 480 + "1", "[" * 90 + "]" * 90, "inputs" + ".a" * 900])
def test_a_monster_is_refused_when_it_is_carried_out(expression: str) -> None:
    with pytest.raises(WorkflowError, match=r"^here: the expression "):
        values.expression(expression, {"inputs": {"a": "x"}}, where="here")


def test_expressions_do_not_grow_beyond_memory() -> None:
    scope = {"inputs": {"a": "x" * 900_000}}
    assert values.evaluate({"b": "{{ inputs.a }}"}, scope, where="here") == {"b": scope["inputs"]["a"]}
    for many in (["{{ inputs.a }}"] * 1000, "{{ inputs.a }}" * 1000, {"b": {"c": ["{{ inputs }}", "{{ inputs.a }}"]}}):
        with pytest.raises(WorkflowError, match="come to more than 1,000,000 characters"):
            values.evaluate(many, scope, where="here")


def test_a_skill_must_be_there_and_take_its_inputs(config: LoomConfig, directory: Path) -> None:
    put(directory, SKILL, "shout.md", "skills")
    known = skills.load(config)
    loader.check_skills(flow("- {id: a, type: skill, skill: shout, inputs: {words: '{{ inputs }}'}}"), known)
    for facts, told in {
        "skill: shuot, inputs: {words: x}": "step a, `skill`: There is no skill “shuot”. Did you mean shout?",
        "skill: shout": "step a, `inputs.words` is missing, which the skill shout needs",
        "skill: shout, inputs: {words: [x]}": "step a, `inputs.words` must be of type string",
        "skill: shout, inputs: {words: x, word: x}": "the skill shout does not take it: there is no key `word`.",
    }.items():
        with pytest.raises(WorkflowError) as caught:
            loader.check_skills(flow(f"- {{id: a, type: skill, {facts}}}"), known)
        assert "trial.yaml: step a" in str(caught.value)
        assert told in str(caught.value)


def test_inputs_are_checked() -> None:
    workflow = flow(ASK, "goal: {type: string, description: What for}\nmany: {type: integer, default: 3}")
    assert workflow.accept({"goal": "x"}) == {"goal": "x", "many": 3}
    for given, told in (
        ({}, r"needs the input goal \(string\): What for"),
        ({"gaol": "x"}, "no input “gaol”. Did you mean goal?"),
        ({"goal": "x", "many": "3"}, "must be of type integer, not text"),
    ):
        with pytest.raises(InvalidInputError, match=told):
            workflow.accept(given)


# --- places and trust -----------------------------------------------------------------------------------------------


def test_later_places_win_and_a_project_must_be_trusted_to_replace(
    config: LoomConfig, home: Path, directory: Path
) -> None:
    put(directory, source(ASK))
    assert loader.load(config).get("trial").source == "project", "it replaces nothing and runs nothing"
    put(home, source(ASK, name="ship_feature"), "mine.yml")
    assert loader.load(config).get("ship_feature").source == "user"
    file = put(directory, source(ASK, name="ship_feature"), "ours.yaml")
    before = loader.load(config)
    assert before.get("ship_feature").source == "user"
    (told,) = before.notes
    assert told.startswith(f"{file}: it replaces the user workflow ship_feature and is ignored until you allow it")
    assert "loom config trust" in told
    trust(directory)
    assert loader.load(config).get("ship_feature").source == "project"
    put(directory, source(ASK, name="ship_feature") + "# changed\n", "ours.yaml")
    assert loader.load(config).get("ship_feature").source == "user", "a change asks again"


def test_a_project_runs_a_command_only_when_trusted(config: LoomConfig, home: Path, directory: Path) -> None:
    put(directory, source(COMMAND))
    with pytest.raises(WorkflowNotFoundError, match=r"There is no workflow “trial”.*it runs a command and is ignored"):
        loader.load(config).get("trial")
    trust(directory)
    assert loader.load(config).get("trial").commands == ["make"]
    put(directory, source(COMMAND.replace("make]", "curl]")))
    assert "trial" not in loader.load(config).all, "a change asks again"
    (directory / ".loom" / "workflows" / "trial.yaml").unlink()
    put(home, source(COMMAND))
    assert loader.load(config).get("trial").source == "user", "the user's own need no trust"


def test_a_link_does_not_pass_by_trust(config: LoomConfig, directory: Path, tmp_path: Path) -> None:
    inside, outside = directory / "inside", tmp_path / "outside"
    place = directory / ".loom" / "workflows"
    for target in (inside, outside):
        target.mkdir()
        (target / "trial.yaml").write_text(source(COMMAND))
    for target, note in ((inside, "it runs a command"), (outside, "it leads out of")):
        place.symlink_to(target)
        assert note in loader.load(config).notes[0]
        place.unlink()
    place.mkdir()
    (place / "trial.yaml").symlink_to(outside / "trial.yaml")
    assert "it leads out of" in loader.load(config).notes[0]


def test_the_name_of_a_file_is_data_too(config: LoomConfig, directory: Path) -> None:
    put(directory, source(COMMAND), "\x1b[2J\u202etrial.yaml")
    (told,) = loader.load(config).notes
    assert told.isprintable()


def test_a_file_in_disorder_takes_nothing_with_it(config: LoomConfig, directory: Path) -> None:
    put(directory, "name: [", "a.yaml")
    put(directory, source(f"- {{id: a, type: confirm, message: {'[' * DEEP}}}"), "b.yaml")
    put(directory, source("- {id: a, type: nothing}"), "c.yaml")
    (directory / ".loom" / "workflows" / "d.yaml").write_bytes(b"\xff\xfe")
    put(directory, source(ASK, name="last"), "e.yaml")
    found = loader.load(config)
    assert "last" in found.all
    assert [one.partition(".yaml")[0][-1] for one in found.notes] == ["a", "b", "c", "d"]
    with pytest.raises(WorkflowNotFoundError, match="Did you mean last"):
        found.get("lost")
