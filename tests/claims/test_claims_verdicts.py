"""Every criterion can come out either way, and says so; every figure can be drawn."""

from __future__ import annotations

import json

import pytest
from made_up import MAKERS, SEEDS, rows
from matplotlib.figure import Figure

from sfumato.claims import CLAIMS, STATEMENTS, Seeds
from sfumato.claims.claim import VERDICTS, checked_measurement, decide, plain
from sfumato.claims.drawing import new_figure


@pytest.mark.parametrize("number", CLAIMS)
def test_a_claim_holds_when_its_numbers_say_so(number: int) -> None:
    measured = rows(number, good=True)
    for row in measured:
        checked_measurement(CLAIMS[number], row)
    assert CLAIMS[number].conclude(Seeds(measured)).verdict == "holds"


@pytest.mark.parametrize("number", CLAIMS)
def test_and_does_not_when_they_do_not(number: int) -> None:
    result = CLAIMS[number].conclude(Seeds(rows(number, good=False)))
    assert result.verdict in VERDICTS[1:]
    json.dumps(plain(result.to_dict()), allow_nan=False)


@pytest.mark.parametrize("number", CLAIMS)
def test_it_does_not_hold_by_numbers_that_are_all_noise(number: int) -> None:
    """Seeds that disagree by more than there is to see prove nothing."""
    assert CLAIMS[number].conclude(Seeds(rows(number, good=True, noise=4.0))).verdict != "holds"


@pytest.mark.parametrize("number", CLAIMS)
def test_a_verdict_comes_with_effects_and_intervals_in_both_languages(number: int) -> None:
    result = CLAIMS[number].conclude(Seeds(rows(number, good=True)))
    assert "[" in result.sentence.en
    assert "[" in result.sentence.zh
    assert len(result.effects) >= 2
    for effect in result.effects:
        assert effect.name.en != effect.name.zh
        assert effect.unit
        assert effect.interval.n == SEEDS
        assert effect.interval.low <= effect.interval.value <= effect.interval.high


@pytest.mark.parametrize("number", CLAIMS)
def test_figures_have_titles_and_axes_with_names(number: int) -> None:
    for count in (1, SEEDS):
        figure = new_figure()
        assert isinstance(figure, Figure)
        CLAIMS[number].draw(Seeds(rows(number, good=True)[:count]), figure)
        assert figure.axes
        for ax in figure.axes:
            assert ax.get_title(loc="left")
            assert ax.get_ylabel()


def test_every_claim_is_there_with_a_criterion_and_made_up_numbers() -> None:
    assert list(CLAIMS) == list(range(1, 11)) == list(MAKERS)
    for claim in CLAIMS.values():
        for words in (claim.title, claim.statement, claim.criterion):
            assert words.en
            assert words.zh
        assert "olds if" in claim.criterion.en or "Holds (" in claim.criterion.en
        assert "成立" in claim.criterion.zh
        assert claim.formula


def test_every_statement_is_measured_or_says_why_not() -> None:
    assert [statement.name for statement in STATEMENTS] == [f"S{number}" for number in range(1, 16)]
    for statement in STATEMENTS:
        assert statement.claims or statement.why_not is not None
        for number in statement.claims:
            assert statement.name in CLAIMS[number].statements or statement.name == "S10"
    for claim in CLAIMS.values():
        for name in claim.statements:
            assert claim.number in next(item for item in STATEMENTS if item.name == name).claims


def test_a_number_without_a_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="no unit for"):
        checked_measurement(CLAIMS[6], {"arm": {"weight": 3.0}})


def test_the_verdict_is_the_best_that_is_earned() -> None:
    assert [decide(True, False), decide(False, True), decide(False, False)] == list(VERDICTS)
