"""Helpers are imported by the tests alone: as a module of doctests they would register their classes a second time."""

collect_ignore_glob = ["io_*.py"]
