"""What is said about the time that a training takes."""

from io import StringIO

from rich.console import Console

from sfumato.cli import progress


def test_the_time_that_is_left_does_not_count_the_first_step(monkeypatch):
    """A first step that compiles for a minute is no reason to announce a day."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = StringIO()
    lines = progress.Lines(Console(file=out, width=200))
    lines.on_start(0, 100, 64)
    for step in range(1, 11):
        now[0] += 60.0 if step == 1 else 0.5
        lines.on_step(step)
    first, *_, tenth = out.getvalue().splitlines()
    assert first == "step 1/100 · 1 %"
    assert tenth.startswith("step 10/100 · 10 % · 45 s left")  # 90 steps of half a second
    assert tenth.endswith("128 img/s")
