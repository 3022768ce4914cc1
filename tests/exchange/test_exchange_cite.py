"""``sfumato cite``: every class of a specification that names a publication is cited, once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sfumato
from sfumato.core.spec import REGISTRY
from sfumato.verbs.cite import parse_references, references_of


def test_a_run_cites_what_it_used(conditional: Path, first_stage: Path, command) -> None:
    code, shown, _ = command("cite", conditional)
    assert code == 0
    keys = re.findall(r"@\w+\{([^,]+),", shown)
    assert len(keys) == len(set(keys))
    assert {"sfumato", "kingma2014auto", "he2016deep", "sohn2015learning"} <= set(keys)
    entry = next(part for part in shown.split("\n\n") if "kingma2014auto," in part)
    assert "title = {{Auto-Encoding Variational Bayes}}" in entry
    assert "author = {Kingma and Welling}" in entry
    assert "eprint = {1312.6114}" in entry
    assert "used for:" in entry
    assert "rombach2022high" in sfumato.cite(first_stage)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("A, B and C, Ada and Bob, 2001, https://x.org/y.", ("A, B and C", "Ada and Bob", 2001, "https://x.org/y")),
        ("Su Jianlin's VAE; Semi-Supervised, Kingma et al., 2014", ("Semi-Supervised", "Kingma et al.", 2014, "")),
        ("free bits: Improving, Kingma et al., 2016 (here)", ("Improving", "Kingma et al.", 2016, "")),
        ("half-way doubling: On It, Odena et al., 2016.", ("On It", "Odena et al.", 2016, "")),
        ("beta-VAE: Learning, Higgins et al., 2017", ("beta-VAE: Learning", "Higgins et al.", 2017, "")),
    ],
)
def test_references_are_read_as_they_are_written(words: str, expected: tuple[object, ...]) -> None:
    (found,) = parse_references(words)
    assert (found.title, found.authors, found.year, found.link) == expected


def test_every_registered_class_with_a_year_in_its_reference_is_cited() -> None:
    for members in REGISTRY.values():
        for name, cls in members.items():
            text = (cls.__doc__ or "").partition("Reference: ")[2].partition("\n\n")[0]
            if re.search(r", \d{4}[,.;:\s)]", text):
                assert references_of(name), f"{name}: {text}"
