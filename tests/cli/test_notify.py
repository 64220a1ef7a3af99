"""Who is told, on the command line, and a way to try it."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli


def configure(cli: Cli, text: str) -> None:
    place = Path(cli.env["HOME"]) / ".loom"
    place.mkdir(exist_ok=True)
    (place / "config.yaml").write_text(text)


def test_a_receiver_is_tried_and_its_secrets_are_shown_to_nobody(cli: Cli, tmp_path: Path) -> None:
    assert "Nobody is told anything" in cli.inside("notify", "list").out
    assert "loom help monitoring" in cli.inside("notify", "list").out
    refused = cli.inside("notify", "test")
    assert (refused.code, refused.out) == (2, "")
    assert "There is no receiver for this project." in refused.err
    configure(
        cli,
        f"""
        notify:
          phone: {{ntfy: "http://127.0.0.1:1/my-topic", token: tk_secret, quiet: "22:00-07:00"}}
          desk: {{command: [touch, {tmp_path / "told"}], events: [question]}}
          nowhere: {{events: [question]}}
          vault: {{obsidian: {tmp_path}}}
        """,
    )
    found = cli.inside("notify", "test", "desk")
    assert (found.code, found.out) == (0, "desk  command  told\n")
    assert "`notify.nowhere` counts for nothing, because it needs one of slack, ntfy," in found.err
    assert (tmp_path / "told").exists()
    both = cli.inside("notify", "test", "--json")
    assert both.code == 1
    rows = {one["name"]: one.get("error") for one in both.json["receivers"]}
    assert rows == {"phone": "127.0.0.1 cannot be reached (ConnectError).", "desk": None}
    listed = cli.ok("notify", "list")["receivers"]
    assert [one["name"] for one in listed] == ["phone", "desk", "vault"]
    assert listed[0] == {
        "name": "phone",
        "kind": "ntfy",
        "events": ["question", "dead_letter", "confirm", "complete"],
        "quiet": "22:00-07:00",
    }
    refused = cli.inside("notify", "test", "vault")
    assert "There is no receiver 'vault' for this project." in refused.err
    shown = cli.inside("config", "show").out
    assert "***" in shown
    assert "my-topic" not in shown
    assert "tk_secret" not in shown
    written = cli.inside("config", "set", "--user", "notify.team", "{slack: https://hooks.slack.com/services/T0/B0/x}")
    assert (written.code, "T0" in written.out) == (0, False)


def test_a_repository_names_no_receiver_until_it_is_trusted(cli: Cli, tmp_path: Path) -> None:
    file = cli.directory / ".loom" / "config.yaml"
    file.write_text(file.read_text() + f"notify: {{evil: {{command: [touch, {tmp_path / 'told'}]}}}}\n")
    refused = cli.inside("notify", "test")
    assert refused.code == 2
    assert "`notify.evil` is ignored until you allow it" in refused.err
    assert not (tmp_path / "told").exists()
    assert cli.inside("config", "trust", "--yes").code == 0
    assert cli.inside("notify", "test").code == 0
    assert (tmp_path / "told").exists()
