"""The count of repeated lines sees what repeats, and nothing else."""

import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location("repetition", Path(__file__).parents[2] / "dev" / "repetition.py")
repetition = importlib.util.module_from_spec(spec)
spec.loader.exec_module(repetition)

BODY = "".join(f"    value_{number} = {number}\n" for number in range(9))


def test_a_copy_counts_once_whatever_is_written_around_it(tmp_path):
    (tmp_path / "one.py").write_text(f'"""One."""\nimport os\n\ndef first():\n    """Do."""\n{BODY}')
    (tmp_path / "two.py").write_text(f'def second():\n    """Do something else."""\n    # and say why\n\n{BODY}')
    total, again, places = repetition.repeated(tmp_path)
    assert (total, again) == (20, 9)
    assert len(places) == 1
    assert "two.py:5 repeats" in places[0]


def test_seven_lines_are_no_copy(tmp_path):
    short = "".join(BODY.splitlines(keepends=True)[:7])
    (tmp_path / "one.py").write_text(f"def first():\n{short}")
    (tmp_path / "two.py").write_text(f"def second():\n{short}")
    assert repetition.repeated(tmp_path)[1] == 0


def test_the_same_imports_and_docstrings_are_no_copy(tmp_path):
    head = '"""The same words."""\n' + "".join(f"import module_{number}\n" for number in range(12))
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(head)
    assert repetition.repeated(tmp_path) == (0, 0, [])
