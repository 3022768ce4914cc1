"""The generated pages: nothing is missing in either language, and what they say to type is a command."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from made_up import summary

from sfumato.claims import CLAIMS, STATEMENTS, write_pages
from sfumato.claims.pages import PAGES, VERDICTS, interval_text, page, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of made-up results in which claim 7 is missing and claim 5 does not hold."""
    found = summary(numbers=(1, 2, 3, 4, 6, 8, 9, 10))
    found["claims"]["5"] = summary(good=False, numbers=(5,))["claims"]["5"]
    path = tmp_path_factory.mktemp("pages")
    write_pages(json.loads(json.dumps(found, allow_nan=False)), path)
    return path


@pytest.mark.parametrize("language", PAGES)
def test_each_statement_and_each_claim_is_on_the_page(folder: Path, language: str) -> None:
    text = (folder / PAGES[language]).read_text(encoding="utf-8")
    for statement in STATEMENTS:
        assert f"**{statement.name}** {statement.text.of(language)}" in text
        assert statement.code in text
        if statement.why_not is not None:
            assert statement.why_not.of(language) in text
    for claim in CLAIMS.values():
        assert f"### {claim.number}. {claim.title.of(language)}" in text
        assert claim.criterion.of(language) in text
        assert claim.formula in text
        assert f"`{claim.command()}`" in text
    assert PAGES["zh" if language == "en" else "en"] in text


@pytest.mark.parametrize("language", PAGES)
def test_verdicts_and_figures_of_what_was_measured(folder: Path, language: str) -> None:
    text = (folder / PAGES[language]).read_text(encoding="utf-8")
    parts = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert len(parts) == 10
    for claim, part in zip(CLAIMS.values(), parts, strict=True):
        verdicts = [word.of(language) for word in VERDICTS.values() if f"**{word.of(language)}**" in part]
        if claim.number == 7:
            assert not verdicts
            assert picture(claim) not in part
            continue
        assert verdicts == [VERDICTS["holds" if claim.number != 5 else "holds with a condition"].of(language)]
        assert f"]({picture(claim)})" in part
        assert (folder / picture(claim)).read_bytes().startswith(b"\x89PNG")


def test_links_lead_somewhere(folder: Path) -> None:
    for name in PAGES.values():
        text = (folder / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("#"):
                assert f'<a id="{target[1:]}"></a>' in text
            else:
                assert (folder / target).is_file()


def test_the_commands_on_the_page_parse(folder: Path) -> None:
    from typer.main import get_command

    from sfumato.cli import main  # noqa: F401 - registers the commands
    from sfumato.cli.app import app

    text = (folder / PAGES["en"]).read_text(encoding="utf-8")
    commands = set(re.findall(r"sfumato claims[^`\n]*", text)) - {"sfumato claims"}
    assert len(commands) == 11
    for command in commands:
        words = shlex.split(command)[1:]
        get_command(app).commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]


def test_the_same_results_give_the_same_page() -> None:
    found = summary()
    for language in PAGES:
        assert page(found, language) == page(json.loads(json.dumps(found)), language)


@pytest.mark.parametrize("language", PAGES)
def test_the_documentation_is_the_page_of_the_results(language: str) -> None:
    root = Path(__file__).parents[2]
    results = (root / "benchmarks" / "results" / "claims_quick.json").read_text(encoding="utf-8")
    written = (root / "docs" / PAGES[language]).read_text(encoding="utf-8")
    assert written == page(json.loads(results), language)


def test_intervals_on_the_page() -> None:
    assert interval_text({"value": 1.23456, "low": -1.0, "high": 3.4}) == "1.235 [-1, 3.4]"
    assert interval_text({"value": None, "low": None, "high": None}) == "not finite"
    assert interval_text({"value": 2.0, "low": None, "high": None}) == "2"
