"""Where configuration lies, and how it is read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from loom import documents, files, texts
from loom.config.inside import refuse_inside
from loom.config.keys import KEYS, LoomConfig
from loom.config.rules import Rule, UnfitError
from loom.exceptions import ConfigError
from loom.wording import Shell, Words

CONFIG_BYTES = 256 * 1024  # of a file
_DEPTH = 8  # of mappings and lists in it
_POINTER_BYTES = 4096  # of what git keeps in a file to point elsewhere
_UNKNOWN = 10  # keys of one file that are told one by one


def user_config_path() -> Path:
    """The user's own file, whether it exists or not. Raises ConfigError where the user has no home directory."""
    try:
        return Path.home() / ".loom" / "config.yaml"
    except RuntimeError:
        raise ConfigError(
            "This user has no home directory, where Loom keeps what he allows.", "Set HOME to one that he may write to."
        ) from None


def logs_dir(config: LoomConfig) -> Path:
    """Where logs go: the project's place for them, and without a project the user's."""
    return (config.loom_dir or files.own_directory(user_config_path().parent)) / "logs"


def find_project(start: Path) -> Path | None:
    """The nearest directory at or above `start` that holds `.loom/config.yaml`, None when there is none.

    In a linked git worktree the same directory of the main worktree comes first, so that all worktrees of a
    repository are one project.
    """
    start = start.resolve()
    chain = [start, *start.parents]
    linked = [(worktree, main) for worktree in chain if (main := _main_worktree(worktree))]
    own = user_config_path().parent.resolve()
    for directory in chain:
        twins = [main / directory.relative_to(tree) for tree, main in linked if directory.is_relative_to(tree)]
        for candidate in [*twins[:1], directory]:
            # A directory above may have one that is somebody else's, and closed to us.
            if files.is_file(candidate / ".loom" / "config.yaml") and candidate / ".loom" != own:
                return candidate
    return None


def path_in_repository(path: Path, project_dir: Path) -> str:
    """What a file is called in every checkout of a project: relative to the root of its repository, or to the project's
    directory where it is in none; what lies outside goes by its whole path."""
    path, project_dir = path.resolve(), project_dir.resolve()
    for directory in path.parents:
        if main := _main_worktree(directory):
            path = main / path.relative_to(directory)
            break
    root = next((one for one in (project_dir, *project_dir.parents) if files.exists(one / ".git")), project_dir)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def read_layer(path: Path, warnings: list[str], *, within: Path | None = None) -> dict[str, Any]:
    """The valid keys of one file, dotted, with their values. A missing file is an empty one.

    Args:
        warnings: gets a sentence for each unknown key.
        within: the project that the file is of; None for the user's own.

    Raises:
        ConfigError: the file cannot be read, or a value does not fit.
    """
    layer: dict[str, Any] = {}
    unknown: list[str] = []
    try:
        for key, value in KEYS.flat(_parsed(read_text(path, within), path)):
            if key in KEYS:
                layer[key] = _accepted(path, key, KEYS[key], value)
            else:
                unknown.append(key)
    except UnfitError as error:
        raise ConfigError(f"{path}: `{error.key}` must be {error.wanted}.", "Correct it in that file.") from None
    for key in unknown[:_UNKNOWN]:
        near = KEYS.nearest(key)
        meant = f"the nearest valid key is `{near}`" if near else "`loom config show` has all keys"
        warnings.append(f"{path}: unknown key `{key[:200]}`; {meant}.")
    if len(unknown) > _UNKNOWN:
        warnings.append(f"{path}: {len(unknown) - _UNKNOWN} more unknown keys.")
    return layer


def set_value(path: Path, key: str, value: object, *, within: Path | None = None) -> Any:
    """Write one key into a configuration file, made when missing. Comments stay. Gives back what was written.

    Args:
        key: of a value, or of a row of a table, which is then replaced as a whole.
        value: text is converted to what the key wants; lists and rows are written as in a file.
        within: the project that the file is of; None for the user's own.

    Raises:
        ConfigError: no such key, a value that it does not accept, a file that cannot be read, or a guarded key from
            inside a run.
    """
    checked = _checked(key, value)
    if KEYS.guards(key, checked):
        refuse_inside(f"`{key}`")
    old = read_text(path, within)
    wanted = _parsed(old, path)
    *holders, name = key.split(".")
    inner = wanted
    for holder in holders:
        if not isinstance(inner.get(holder), dict):
            inner[holder] = {}
        inner = inner[holder]
    inner[name] = checked
    text = _edited(old, [*holders, name], checked)
    try:
        faithful = _parse_yaml(text, path) == wanted
    except ConfigError:
        faithful = False
    if not faithful:
        text = "# Rewritten by `loom config set`.\n" + _whole(wanted)
    try:
        if within is None:
            files.own_directory(path.parent)
        files.write(path, text, within=within)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", "Mend that first.") from None
    return checked


def nested(key: str, value: object) -> dict[str, Any]:
    """A value below its dotted key, as a file has it."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return cast("dict[str, Any]", value)


def wrong(what: str, rule: Rule, value: object, next_step: str, wanted: str = "") -> ConfigError:
    """The error for a value that its rule does not accept; `what` names where it stands."""
    shown = "" if rule.secret or rule.hidden else f", and is {str(value)[:80]!r} ({type(value).__name__})"
    return ConfigError(f"{what} must be {wanted or rule.wanted}{shown}.", next_step)


# --- finding and reading ---------------------------------------------------------------------------------------------


def _main_worktree(directory: Path) -> Path | None:
    """The main worktree's root, when `directory` is the root of a linked one."""
    common = common_dir(directory)
    return common.parent if common is not None and common.name == ".git" else None


def common_dir(directory: Path) -> Path | None:
    """The directory of the repository that a linked worktree belongs to, when `directory` is the root of one.

    Anybody can write a `.git` file that points into another repository; git, as it made the worktree, wrote the way
    back there.
    """
    try:
        git_dir = (directory / _pointer(directory / ".git").removeprefix("gitdir:").strip()).resolve()
        common = (git_dir / _pointer(git_dir / "commondir")).resolve()
        back = (git_dir / _pointer(git_dir / "gitdir")).resolve()
    except (OSError, ValueError):  # no linked worktree: a repository, a submodule, or neither
        return None
    return common if git_dir.parent == common / "worktrees" and back == directory / ".git" else None


def _pointer(path: Path) -> str:
    return files.read(path, _POINTER_BYTES).decode().strip()


def read_text(path: Path, within: Path | None, most: int = CONFIG_BYTES) -> str:
    """The text of a file, "" where there is none. Raises ConfigError."""
    try:
        return files.read(path, most, within).decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}.", "Correct that, then run it again.") from None


def _parsed(text: str, path: Path) -> dict[str, Any]:
    data = _parse_yaml(text, path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a mapping of keys.", "Correct the file.")
    return data


def _parse_yaml(text: str, path: object) -> Any:
    try:
        return documents.load(text, depth=_DEPTH)
    except documents.DocumentError as error:
        raise ConfigError(f"{path} {error.told()}.", error.advice) from None


def _accepted(path: Path, key: str, rule: Rule, value: object) -> Any:
    try:
        return rule.accept(value)
    except UnfitError as error:
        raise wrong(f"{path}: `{key}`", rule, value, "Correct it in that file.", error.wanted) from None


# --- writing ---------------------------------------------------------------------------------------------------------


def _checked(key: str, value: object) -> Any:
    """The value for a key, or the mapping for a row, as a file has it."""
    if key in KEYS:
        rule = KEYS[key]
        try:
            value = rule.parse(value) if isinstance(value, str) else rule.accept(value)
        except UnfitError as error:
            raise wrong(f"`{key}`", rule, value, "Give another value.", error.wanted) from None
        value = list(value) if isinstance(value, tuple) else value
    elif KEYS.row_of(key) != key:
        raise _no_key(key)
    elif isinstance(value, str):
        value = _parse_yaml(value, f"The value of `{key}`") or ""
    inner = key
    try:
        for inner, item in KEYS.flat(nested(key, value)):
            if inner not in KEYS:
                raise _no_key(inner)
            KEYS[inner].accept(item)
    except UnfitError as error:
        raise ConfigError(f"`{error.key or inner}` must be {error.wanted}.", "Give another value.") from None
    return value


def _no_key(key: str) -> ConfigError:
    near = KEYS.nearest(key)
    meant = f"The nearest valid key is `{near}`." if near else Words("See {}.", Shell("loom config show"))
    return ConfigError(f"There is no key `{texts.shorten(key, 200)}`.", meant)


def _edited(text: str, path: list[str], value: object) -> str:
    """`text` with `value` where the names of `path` lead, the rest of it as it is; the caller checks the result."""
    import yaml

    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        return _with_lines(text, len(text), _lines(path, value, ""))
    at, indent = len(text), ""  # where keys of a mapping in lines are added
    for depth, name in enumerate(path):
        rest = path[depth:]
        found = next((pair for pair in node.value if pair[0].value == name), None)
        if found is None and node.flow_style:
            begin = node.start_mark.index + 1
            more = ", " if node.value else ""
            return text[:begin] + _flow(rest, value) + more + text[begin:]
        if found is None:
            return _with_lines(text, at, _lines(rest, value, indent))
        key, node = found
        after = text.find("\n", key.end_mark.index) + 1 or len(text)
        if len(rest) > 1 and isinstance(node, yaml.MappingNode):
            at, indent = after, " " * node.start_mark.column
        elif len(rest) > 1 and not node.value:  # a section without keys
            return _with_lines(text, after, _lines(rest[1:], value, " " * (key.start_mark.column + 2)))
    in_lines = isinstance(node, yaml.CollectionNode) and not node.flow_style
    begin, end = text.index(":", key.end_mark.index) + 1 if in_lines else node.start_mark.index, _end(node)
    between = "" if text[begin - 1 : begin].isspace() else " "
    return text[:begin] + between + _dumped(value) + text[end:]


def _end(node: Any) -> int:
    """Where the text of a value ends; of one in lines with its last item, before the comments that may follow."""
    items = node.value if isinstance(node.value, list) and not node.flow_style else []
    if not items:
        return int(node.end_mark.index)
    return _end(items[-1][-1] if isinstance(items[-1], tuple) else items[-1])


def _with_lines(text: str, at: int, lines: str) -> str:
    before = text[:at]
    return f"{before}{'' if before.endswith(chr(10)) or not before else chr(10)}{lines}{text[at:]}"


def _lines(path: list[str], value: object, indent: str) -> str:
    """`value` under the names of `path`, each in a line of its own."""
    *holders, name = path
    heads = [f"{indent}{'  ' * depth}{holder}:\n" for depth, holder in enumerate(holders)]
    return "".join([*heads, f"{indent}{'  ' * len(holders)}{name}: {_dumped(value)}\n"])


def _flow(path: list[str], value: object) -> str:
    return _dumped(nested(".".join(path), value))[1:-1]


def _whole(data: object) -> str:
    import yaml

    return yaml.safe_dump(data, allow_unicode=True, sort_keys=False, width=1_000_000)


def _dumped(value: object) -> str:
    """A value on one line."""
    import yaml

    many = isinstance(value, list | dict)
    text = yaml.safe_dump(
        value if many else {"k": value}, default_flow_style=many, allow_unicode=True, sort_keys=False, width=1_000_000
    ).rstrip("\n")
    return text if many else text.removeprefix("k: ")
