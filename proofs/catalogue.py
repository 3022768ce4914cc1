"""The proofs by number: which module, what it aims at, and its share of the time."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from proofs.proof import Proof


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Args:
        module: in this folder.
        about: what is done and what must hold.
        share: of the time, relative to the others.
    """

    module: str
    about: str
    share: float = 1.0


CATALOGUE: Mapping[str, Entry] = {
    "T1": Entry("t01_random_kills", "kill -9 at random times, resume: every bit as without", 3),
    "T2": Entry("t02_kills_in_saves", "kill -9 inside a save, resume: every bit as without", 3),
    "T3": Entry("t03_every_call", "kill -9 at every system call of a save, a replacement, a resume", 2),
    "T4": Entry("t04_crash_states", "every disk state that a power cut may leave", 2),
    "T5": Entry("t05_power_cut", "power cuts on a mounted ext4", 2),
    "T6": Entry("t06_faults", "a failing disk at every call: one sentence, the last good one stays", 2),
    "T7": Entry("t07_full_disk", "a disk really full, and room again: nothing lost, bit for bit", 1),
    "T8": Entry("t08_signals", "signals, a broken pipe, a pause: exit code, checkpoint, no orphans", 2),
    "T9": Entry("t09_damage", "a bit, a cut, a zeroed block in every file: noticed and named", 1),
    "T10": Entry("t10_golden", "golden folders of every format version, and damaged ones", 1),
    "T11": Entry("t11_state_machine", "sequences of saves, crashes, copies, clocks, strangers against a model", 2),
    "T12": Entry("t12_two_runs", "two runs in one folder: one trains, the other exits 2", 1),
    "T13": Entry("t13_resume_matrix", "stop and resume over every pair of settings: 0 bits", 3),
    "T14": Entry("t14_every_sample_once", "every sample once, whatever the number of processes; shuffled", 0.5),
    "T15": Entry("t15_processes", "several processes are one, float64", 2),
    "T16": Entry("t16_bad_steps", "NaN and Inf everywhere: exactly the bad steps are skipped", 2),
    "T17": Entry("t17_extremes", "extreme values through every public density and objective", 1),
    "T18": Entry("t18_laws", "twelve laws over random compositions", 3),
    "T19": Entry("t19_flipped_bit", "one bit of one process flipped in memory: found and named", 1),
    "T20": Entry("t20_mutated_files", "mutated files at the loaders: our own sentences only", 3),
    "T21": Entry("t21_mutated_input", "mutated files through the command line and the service", 2),
    "T22": Entry("t22_bombs", "bombs and oddities: bounded memory and time", 1),
    "T23": Entry("t23_specs", "attacks in the specification, under an audit hook", 1),
    "T24": Entry("t24_routes", "every endpoint, token, host, origin, method", 0.5),
    "T25": Entry("t25_service", "hostile bodies and many connections", 1),
    "T26": Entry("t26_injection", "traversal, markup and formulas in names", 1),
    "T27": Entry("t27_no_network", "train, report, load without a network", 1),
    "T28": Entry("t28_mutation", "mutation testing of what keeps and what lets in", 4),
    "T29": Entry("t29_suite", "the tests in odd orders and surroundings", 3),
}


def proof(number: str) -> Proof:
    """Return the module of a proof."""
    module: Any = importlib.import_module(f"proofs.{CATALOGUE[number].module}")
    return cast(Proof, module)
