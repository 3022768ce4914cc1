"""A hook of mkdocs: formulas become MathML while the pages are built, so that a reader's browser fetches nothing."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What the converter gets wrong: the space around a relation, and after a function without brackets.
REPAIRS = (
    (re.compile("<mi>&#x0007E;</mi>"), "<mo>&#x0223C;</mo>"),
    (re.compile(r"(<mi>(?:log|exp)</mi>)(?=<m(?:i|n|sup|sub|subsup)>)"), r'\1<mspace width="0.17em"/>'),
)
FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Return the page with every formula that arithmatex found as MathML."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    tag = found["tag"]
    display = "block" if tag == "div" else "inline"
    made = convert(html.unescape(found["latex"]).strip(), display=display)
    for wrong, right in REPAIRS:
        made = wrong.sub(right, made)
    return f'<{tag} class="formula">{made}</{tag}>'
