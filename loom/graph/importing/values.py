"""Values of a file made fit for Postgres and for readers: cleaned of what neither can take, and cut to the limits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from loom import texts
from loom.exceptions import InvalidInputError
from loom.graph.model import limits

_UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_INNER_DEPTH = limits.JSON_DEPTH - 4
_NOTE_BYTES = 8192  # enough for the names of twenty parts


class Cleaner:
    """Makes the values of one task fit, and remembers whether anything had to go."""

    def __init__(self) -> None:
        self.changed = False

    def value(self, value: Any, depth: int = 1) -> Any:
        """A JSON value without characters, depths and numbers that Postgres or a reader cannot take."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict | list) and depth > _INNER_DEPTH:
            self.changed = True
            return "(nested too deep)"
        if isinstance(value, dict):
            return {self._text(str(name)): self.value(inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner, depth + 1) for inner in value]
        if isinstance(value, int) and value.bit_length() > 1024:
            return str(value)
        if isinstance(value, float) and value - value != 0:
            return None
        return value

    def _text(self, value: str) -> str:
        if not _UNFIT.search(value):
            return value
        text = value.replace("\r\n", "\n")
        clean = _UNFIT.sub("", text)
        self.changed |= clean != text
        return clean


def only_fit(given: Iterable[str], read: Callable[[str], str], most: int, cleaner: Cleaner) -> tuple[str, ...]:
    """Those of some texts that `read` takes, as it has them, each once and not more than `most`; what has to go is
    remembered by the cleaner."""
    found: dict[str, None] = {}
    for text in given:
        try:
            found[read(text)] = None
        except InvalidInputError:
            cleaner.changed = True
    cleaner.changed |= len(found) > most
    return tuple(found)[:most]


def cut_to_limit(value: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A JSON object within the limit, its longest parts cut where needed, and whether any were."""
    total = _json_bytes(value)
    if total <= limits.JSON_BYTES:
        return value, False
    sizes = {name: _json_bytes(part) for name, part in value.items()}
    longest = _share(sizes.values(), limits.JSON_BYTES - _NOTE_BYTES - (total - sum(sizes.values())))
    kept, cut = dict(value), []
    for name, part in value.items():
        if sizes[name] > longest:
            kept[name] = _cut(part if isinstance(part, str) else _json(part), longest)
            cut.append(f"{texts.quote(name)[1:-1]}, {sizes[name]:,} bytes")
            if not kept[name]:
                del kept[name]
    kept["shortened"] = cut[:20]
    return kept, True


def _share(sizes: Iterable[int], left: int) -> int:
    """What each part may have when all together have `left` and the short ones keep all theirs."""
    ordered = sorted(sizes)
    longest = 0
    for at, size in enumerate(ordered):
        longest = left // (len(ordered) - at)
        if size > longest:
            break
        left -= size
    return longest


def _cut(text: str, size: int) -> str:
    """The beginning of a text that takes at most `size` bytes in JSON; empty where that is not worth keeping."""
    if size < 200:
        return ""
    encoded = _json(text)[1:-1].encode()[: size - 2].decode(errors="ignore")
    for back in range(7):  # an escape is at most six characters long
        try:
            return str(json.loads(f'"{encoded[: len(encoded) - back]}"'))
        except ValueError:
            continue
    return ""


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _json_bytes(value: object) -> int:
    return len(_json(value).encode())
