"""The article's page in English and Chinese, generated from the results: each statement, what was measured, the "
"command."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.claims.catalogue import CLAIMS
from sfumato.claims.claim import Claim, Language, Seeds, Words
from sfumato.claims.drawing import new_figure
from sfumato.claims.statements import STATEMENTS, Statement
from sfumato.io import store

PAGES: dict[Language, str] = {"en": "article.md", "zh": "article.zh.md"}
IMAGES = "images/claims"
UNRUN = '```bash unrun="many minutes; tests/claims runs it on made-up numbers"'
VERDICTS = {
    "holds": Words("holds", "成立"),
    "holds with a condition": Words("holds with a condition", "有条件成立"),
    "does not hold": Words("does not hold", "不成立"),
}
TITLE = Words("The article, claim by claim", "逐条检验这篇文章")
OPENING = Words(
    "sfumato implements the variational autoencoder as Su Jianlin's essays tell it. Here is that line of argument, "
    "statement by statement in our own words, and what came out when each was measured. Criteria were written before "
    "the "
    "measurements; square brackets are 95 % confidence intervals over seeds, of paired differences where two arms are "
    "compared. This page is generated from the results: `sfumato claims` makes it.",
    "sfumato 按照苏剑林文章的思路实现变分自编码器。这里用我们自己的话逐条列出文章的论点，以及测量的结果。"
    "判定标准在测量之前写定；"
    "方括号是对随机种子的 95 % 置信区间，比较两种做法时取成对差。本页由结果自动生成：命令是 `sfumato claims`。",
)
LABELS = {
    "statement": Words("The statement", "陈述"),
    "all": Words("All of it", "全部重做"),
    "summary": Words("What came out", "结果一览"),
    "statements": Words("The statements", "各条陈述"),
    "claims": Words("The claims", "各项主张"),
    "claim": Words("Claim", "主张"),
    "verdict": Words("Verdict", "判定"),
    "criterion": Words("Criterion", "判定标准"),
    "measured": Words("Measured", "测量结果"),
    "formula": Words("Formula", "公式"),
    "quantity": Words("quantity", "量"),
    "interval": Words("mean over seeds [95 % interval]", "对种子的平均 [95 % 区间]"),
    "unit": Words("unit", "单位"),
    "repeat": Words("Repeat it", "重复实验"),
    "figure": Words("What was measured", "测量的图示"),
    "missing": Words("Not measured in this run.", "本次运行没有测量。"),
    "not measurable": Words("Not measured", "未测量"),
    "see": Words("Measured as", "测量见"),
    "code": Words("In the code", "代码"),
    "about": Words("Statements", "对应陈述"),
    "figures in English": Words("", "图中文字为英文。"),
}


def write_pages(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write both pages and the figures of what is measured; return their paths.

    Args:
        summary: what is in ``claims.json``.
        folder: where to.
    """
    written = []
    store.make_folder((folder / IMAGES).absolute())
    for number, found in summary["claims"].items():
        path = folder / picture(CLAIMS[int(number)])
        store.write_file(path, figure(CLAIMS[int(number)], found))
        written.append(path)
    for language, name in PAGES.items():
        store.write_file(folder / name, page(summary, language).encode())
        written.append(folder / name)
    return written


def picture(claim: Claim) -> str:
    """Return where the claim's figure lies, beside the pages."""
    return f"{IMAGES}/{claim.file}.png"


def figure(claim: Claim, found: Mapping[str, Any]) -> bytes:
    """Return the claim's figure as PNG."""
    drawn = new_figure()
    claim.draw(Seeds(found["seeds"]), drawn)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def page(summary: Mapping[str, Any], language: Language) -> str:
    """Return the page in ``language``, as markdown."""
    other: Language = "zh" if language == "en" else "en"
    link = f"[{'中文' if other == 'zh' else 'English'}]({PAGES[other]})"
    quick = summary["setting"]["name"] != "full"
    lines = [f"# {TITLE.of(language)}", "", link, "", OPENING.of(language), "", setting_line(summary, language), ""]
    lines += [UNRUN, f"sfumato claims{' --quick' if quick else ''}", "```", ""]
    lines += [f"## {word('summary', language)}", "", *table(summary, language), ""]
    lines += [f"## {word('statements', language)}", ""]
    for statement in STATEMENTS:
        lines += statement_lines(statement, summary, language, quick)
    lines += [f"## {word('claims', language)}", ""]
    for number, claim in CLAIMS.items():
        lines += claim_lines(claim, summary["claims"].get(str(number)), language, quick)
    return "\n".join(lines).rstrip() + "\n"


def setting_line(summary: Mapping[str, Any], language: Language) -> str:
    """Return what the numbers were measured with, in one sentence."""
    setting = summary["setting"]
    minutes = sum(found["seconds"] for found in summary["claims"].values()) / 60
    return Words(
        f"Setting: {setting['data']}, {setting['seeds']} seeds, {setting['latent_dim']} latent dimensions, one hidden "
        "layer of "
        f"{setting['width']}, {setting['steps']} steps of {setting['batch_size']} images (sweeps half as many, "
        "trainings that may break a quarter), Adam with a warm-up and a cosine down to 0, "
        f"{minutes:.0f} minutes of one core in all. Short trainings of small networks: what is said here is said of "
        "them, and a longer training may change a verdict (docs/benchmarks.md has the class-conditional model "
        "after ten minutes).",
        f"设置：{setting['data']}，{setting['seeds']} 个随机种子，{setting['latent_dim']} 个隐变量维度，一个宽 "
        f"{setting['width']} 的隐藏层，"
        f"每步 {setting['batch_size']} 张图像，共 {setting['steps']} 步（扫描实验减半，可能失败的训练为四分之一），"
        f"Adam 先预热、再按余弦降到 0，合计单核 {minutes:.0f} 分钟。"
        f"这些是小网络的短训练，结论也只对它们而言；训练更久，结论可能改变"
        f"（docs/benchmarks.md 有训练十分钟的条件模型）。{LABELS['figures in English'].zh}",
    ).of(language)


def table(summary: Mapping[str, Any], language: Language) -> list[str]:
    """Return the verdicts as a table."""
    rows = [f"| {word('claim', language)} | {word('about', language)} | {word('verdict', language)} |", "|---|---|---|"]
    for number, claim in CLAIMS.items():
        found = summary["claims"].get(str(number))
        verdict = f"**{VERDICTS[found['verdict']].of(language)}**" if found else word("missing", language)
        rows.append(
            f"| [{number}. {claim.title.of(language)}](#claim-{number}) | {', '.join(claim.statements)} | {verdict} |"
        )
    return rows


def statement_lines(statement: Statement, summary: Mapping[str, Any], language: Language, quick: bool) -> list[str]:
    """Return what the page says about one statement."""
    lines = [f"**{statement.name}** {statement.text.of(language)}", ""]
    for number in statement.claims:
        claim, found = CLAIMS[number], summary["claims"].get(str(number))
        verdict = VERDICTS[found["verdict"]].of(language) if found else word("missing", language)
        link = f"[{word('claim', language)} {number}. {claim.title.of(language)}](#claim-{number})"
        lines.append(f"* {word('see', language)} {link}: **{verdict}**  (`{claim.command(quick)}`)")
    if statement.why_not is not None:
        head = "" if statement.claims else f"*{word('not measurable', language)}*: "
        lines.append(f"* {head}{statement.why_not.of(language)}")
    return [*lines, f"* {word('code', language)}: {statement.code}", ""]


def claim_lines(claim: Claim, found: Mapping[str, Any] | None, language: Language, quick: bool) -> list[str]:
    """Return what the page says about one claim."""

    def item(label: str, text: str) -> list[str]:
        return [f"*{word(label, language)}.* {text}", ""]

    lines = [f'<a id="claim-{claim.number}"></a>', "", f"### {claim.number}. {claim.title.of(language)}", ""]
    lines += item("about", f"{', '.join(claim.statements)}. {claim.statement.of(language)}")
    lines += item("formula", f"`{claim.formula}`")
    lines += item("criterion", claim.criterion.of(language))
    if found is None:
        lines += item("measured", word("missing", language))
    else:
        lines += item("verdict", f"**{VERDICTS[found['verdict']].of(language)}**")
        lines += item("measured", found["sentence"][language])
        lines += [f"![{word('figure', language)}: {claim.title.of(language)}]({picture(claim)})", ""]
        lines += [
            f"| {word('quantity', language)} | {word('interval', language)} | {word('unit', language)} |",
            "|---|---|---|",
        ]
        lines += [
            f"| {effect['name'][language]} | {interval_text(effect)} | {effect['unit']} |"
            for effect in found["effects"]
        ]
        lines.append("")
    return [*lines, *item("repeat", f"`{claim.command(quick)}`")]


def interval_text(effect: Mapping[str, Any]) -> str:
    """Return "mean [low, high]" with as many digits as the interval is worth."""
    numbers = [effect[name] for name in ("value", "low", "high")]
    if any(number is None for number in numbers):
        return "not finite" if numbers[0] is None else f"{numbers[0]:.3g}"
    value, low, high = numbers
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


def word(label: str, language: Language) -> str:
    """Return a label of the page."""
    return LABELS[label].of(language)
