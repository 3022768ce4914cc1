"""``sfumato cite``: the BibTeX of what a run used, from the references of the classes in its specification."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sfumato.core.spec import REGISTRY, to_spec
from sfumato.verbs.opening import Opened, open_model

_YEAR = re.compile(r", (\d{4})(?=[,.;:\s)]|$)")
_LINK = re.compile(r"https?://[^\s,;)]+")
_ARXIV = re.compile(r"arxiv\.org/abs/(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Reference:
    """A publication.

    Args:
        title: as it is.
        authors: "Kingma and Welling", "He et al.".
        year: of it.
        link: or "".
        used_for: the classes that name it.
    """

    title: str
    authors: str
    year: int
    link: str
    used_for: tuple[str, ...]

    @property
    def key(self) -> str:
        """The BibTeX key.

        >>> Reference("Auto-Encoding Variational Bayes", "Kingma and Welling", 2014, "", ()).key
        'kingma2014auto'
        """
        words = [*re.findall(r"[A-Za-z]+", self.authors), "unknown"]
        small = {"a", "an", "the", "on", "of"}
        title = [word.lower() for word in re.findall(r"[A-Za-z]+", self.title)]
        first = next((word for word in title if word not in small), "")
        return f"{words[0].lower()}{self.year}{first}"

    def bibtex(self) -> str:
        """Return the entry."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": self.authors.replace(" et al.", " and others").replace(", ", " and "),
            "year": str(self.year),
        }
        arxiv = _ARXIV.search(self.link)
        if arxiv:
            fields |= {"eprint": arxiv.group(1), "archiveprefix": "arXiv"}
        if self.link:
            fields["url"] = self.link
        used = f"% used for: {', '.join(self.used_for)}\n" if self.used_for else ""
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"{used}@misc{{{self.key},\n{lines}\n}}"


def cite(source: str | Path) -> str:
    """Return the BibTeX of what a run or a model used, and of sfumato.

    Args:
        source: a run or a model folder.
    """
    return bibliography(open_model(source))


def bibliography(opened: Opened) -> str:
    """Return the BibTeX of a model that is open."""
    decided = opened.decided or {}
    trees = [to_spec(opened.model), *(decided[part] for part in ("objective", "training") if part in decided)]
    found: dict[str, Reference] = {}
    for name in dict.fromkeys(name for tree in trees for name in classes_in(tree)):
        for reference in references_of(name):
            known = found.get(reference.key)
            used = (*known.used_for, name) if known else (name,)
            found[reference.key] = Reference(
                reference.title,
                reference.authors,
                reference.year,
                reference.link or (known.link if known else ""),
                used,
            )
    own = (
        "@software{sfumato,\n  title = {sfumato: variational autoencoders on your own data},\n"
        f"  version = {{{metadata.version('sfumato')}}}\n}}"
    )
    return "\n\n".join([own, *(found[key].bibtex() for key in sorted(found))]) + "\n"


def classes_in(tree: Any) -> Iterator[str]:
    """Yield the names of the classes in a specification, from the outside in."""
    if isinstance(tree, Mapping):
        if isinstance(tree.get("class"), str):
            yield tree["class"]
        for item in tree.values():
            yield from classes_in(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from classes_in(item)


def references_of(name: str) -> list[Reference]:
    """Return the publications that the documentation of a registered class names."""
    cls = next((members[name] for members in REGISTRY.values() if name in members), None)
    text = inspect.getdoc(cls) or "" if cls is not None else ""
    _, _, after = text.partition("Reference: ")
    return [] if not after else parse_references(" ".join(after.partition("\n\n")[0].split()))


def parse_references(text: str) -> list[Reference]:
    """Return the publications in "Title, Authors, Year, link; Title, Authors, Year".

    >>> [reference.key for reference in parse_references("Deep Residual Learning, He et al., 2016, https://x.org (y).")]
    ['he2016deep']
    """
    found = []
    for piece in text.split("; "):
        year = _YEAR.search(piece)
        if year is None:
            continue
        *title, authors = piece[: year.start()].split(", ")
        title_text = ", ".join(title).rpartition(": ")[2] if _is_lead(", ".join(title)) else ", ".join(title)
        link = _LINK.search(piece[year.end() :])
        if title_text:
            found.append(
                Reference(title_text, authors, int(year.group(1)), link.group().rstrip(".") if link else "", ())
            )
    return found


def _is_lead(title: str) -> bool:
    """Whether a title begins with words about the reference rather than its own ("free bits: Improving ...")."""
    lead, colon, _ = title.partition(": ")
    return bool(colon) and lead.islower()
