"""The files that lie beside Loom's modules. A module reads its own when it is imported, so that they are of one version
with it, whatever an upgrade has put in their place since.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def bundled(folder: str, suffix: str = "") -> dict[str, bytes]:
    """What is in the files of a folder of Loom's, by their names, in the order of these; of those that end so."""
    files = sorted(one for one in (_HERE / folder).iterdir() if one.name.endswith(suffix) and one.is_file())
    return {file.name: file.read_bytes() for file in files}
