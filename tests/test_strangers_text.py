"""What strangers wrote (error texts, paths, licences) is shown as text: no markup, no escapes, no HTML, no columns."""

from pathlib import Path

import pytest

from src.export.licence import Licence, describe
from src.models import merging
from src.report.__main__ import main as report
from tests.conftest import Command

HOSTILE = "an [/INST] [bold]error[/bold] \x1b[31mred\x1b[0m :smile: <b>x</b>"


def test_an_error_s_text_is_neither_markup_nor_obeyed_by_the_terminal(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = merging.merge_in_memory, []

    def first_fails(*rest: object, **named: object) -> object:
        calls.append(None)
        if len(calls) == 1:
            raise RuntimeError(HOSTILE)
        return real(*rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(merging, "merge_in_memory", first_fails)
    outcome = evolve("stop.generations=1", "strategy.k=3", f"outputs='{tmp_path / 'a[beta]'}'")
    assert outcome.status == 0, outcome.err
    assert "an [/INST] [bold]error[/bold] \\x1b[31mred\\x1b[0m :smile: <b>x</b>" in " ".join(outcome.out.split())
    assert "\x1b[31m" not in outcome.out + outcome.err
    assert "a[beta]" in outcome.out.splitlines()[-1]
    run = str(tmp_path / "a[beta]/run")
    assert report([run]) == 0
    assert "<b>x</b>" not in (Path(run) / "report.html").read_text()
    assert "\x1b[31m" not in capsys.readouterr().out


def test_a_licence_s_name_is_no_markdown() -> None:
    name = "evil | <img src=x> [link](http://x) `code`\nnew line"
    one, two = Licence(id="other", name=name), Licence(id="mit")
    for text in (describe({"a": one, "b": two}), describe({"a": one}), describe({"a": one, "b": None})):
        assert "<img" not in text.replace("\\<img", "")
        assert "[link](" not in text.replace("\\[link\\]", "")
        assert "\nnew line" not in text
