"""The report: what a person looks at after, and during, a training. Pictures and charts, each also for themselves."""

from sfumato.report.pictures import grid, image_grid, to_uint8
from sfumato.report.report import write_report

__all__ = ["grid", "image_grid", "to_uint8", "write_report"]
