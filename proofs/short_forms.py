"""Where the short form of each proof is: the tests that hold the same invariant in seconds.

A test is named FILE::FUNCTION below ``tests``; ``tests/proofs/test_proofs.py`` asserts that each of them exists.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache

from proofs import ROOT

_CRASH, _DAMAGE, _FAULTS, _MODEL = "io/test_io_crash", "io/test_io_damage", "io/test_io_faults", "io/test_io_model"
_RESUME, _MUTANTS = "training/test_training_resume", "training/test_training_resume_mutants"
_GUARD, _PROCESSES, _RUNS = (
    "training/test_training_guard",
    "training/test_training_processes",
    "training/test_training_runs",
)
_ORDER, _SOURCES, _STREAMS = "data/test_data_order", "data/test_data_sources", "data/test_data_streams"
_APP_GUARD, _SERVER, _PAGE = "app/test_app_guard", "app/test_app_server", "app/test_app_page"
_SHARDING, _ENGINE = "training/test_training_sharding", "training/test_training_engine"

SHORT_FORMS: Mapping[str, tuple[str, ...]] = {
    "T1": (
        f"{_RESUME}::test_kill_9_at_random_times_changes_nothing",
        f"{_RESUME}::test_a_crash_at_any_place_changes_nothing",
        f"{_MUTANTS}::test_a_resume_that_forgets_is_caught",
    ),
    "T2": (f"{_RESUME}::test_kill_9_inside_a_save_changes_nothing",),
    "T3": (
        f"{_FAULTS}::test_kill_9_at_every_call_of_a_save",
        f"{_FAULTS}::test_kill_9_at_every_call_of_a_replacement",
    ),
    "T4": (
        f"{_CRASH}::test_every_crash_state_has_the_right_checkpoint",
        f"{_CRASH}::test_a_writer_that_errs_is_caught",
        f"{_CRASH}::test_a_manifest_written_first_is_caught",
        f"{_CRASH}::test_replacing_a_model_never_leaves_none",
        f"{_CRASH}::test_a_replacement_that_errs_is_caught",
        f"{_CRASH}::test_a_writer_of_files_that_errs_is_caught",
    ),
    "T5": ("proofs/test_proofs::test_in_short",),
    "T6": (
        f"{_FAULTS}::test_a_fault_at_any_call_of_a_save_leaves_the_last_good_one",
        f"{_FAULTS}::test_a_fault_while_a_model_is_replaced_leaves_the_old_or_the_new",
        f"{_FAULTS}::test_short_writes_are_completed",
        f"{_FAULTS}::test_a_failed_fsync_is_not_retried",
        f"{_GUARD}::test_a_sync_of_the_metrics_that_fails_does_not_stop_training",
    ),
    "T7": (
        f"{_FAULTS}::test_a_disk_really_full",
        f"{_GUARD}::test_a_full_disk_does_not_stop_training",
        f"{_GUARD}::test_a_stop_after_a_full_disk_changes_nothing",
    ),
    "T8": (
        f"{_RESUME}::test_a_signal_from_outside_leaves_a_checkpoint",
        f"{_RESUME}::test_a_second_ctrl_c_leaves_at_once_without_saving",
        f"{_RESUME}::test_a_signal_during_a_save_changes_nothing",
        f"{_PROCESSES}::test_a_signal_to_one_process_stops_all_at_the_same_step",
        f"{_PROCESSES}::test_a_killed_process_ends_all_with_a_good_checkpoint",
    ),
    "T9": (
        f"{_DAMAGE}::test_a_damaged_checkpoint_is_named_and_the_one_before_is_used",
        f"{_DAMAGE}::test_every_bit_of_a_manifest_counts",
        f"{_DAMAGE}::test_swapped_files_and_swapped_checkpoints",
        f"{_DAMAGE}::test_a_damaged_model_folder_is_refused_by_name",
    ),
    "T10": (
        "golden/test_golden::test_it_loads_and_gives_the_stored_numbers",
        "golden/test_golden::test_the_interrupted_run_goes_on",
        "golden/test_golden::test_a_damaged_one_loads_or_says_a_sentence",
    ),
    "T11": ("proofs/test_proofs::test_in_short",),
    "T12": ("io/test_io_run::test_a_lock_is_taken_once", f"{_RUNS}::test_one_run_has_one_process"),
    "T13": (
        f"{_RESUME}::test_a_stop_at_any_place_changes_nothing",
        "data/test_data_streams_training::test_resume_in_mid_epoch_is_exact",
        f"{_ENGINE}::test_a_resumed_training_computes_as_it_did_before",
        f"{_PROCESSES}::test_another_number_of_processes_goes_on_with_the_same_batches",
        f"{_SHARDING}::test_a_resumed_run_is_the_same_to_the_last_bit",
    ),
    "T14": (
        "proofs/test_proofs::test_in_short",
        f"{_ORDER}::test_every_epoch_visits_every_example_once",
        f"{_ORDER}::test_it_is_a_real_shuffle",
        f"{_PROCESSES}::test_every_example_of_a_batch_once",
        f"{_STREAMS}::test_every_example_comes_once_an_epoch_and_ranks_share_one",
    ),
    "T15": (f"{_PROCESSES}::test_processes_equal_one", f"{_SHARDING}::test_spread_weights_are_those_of_one_process"),
    "T16": (
        f"{_GUARD}::test_a_bad_step_costs_exactly_itself",
        f"{_GUARD}::test_a_gradient_that_is_not_finite_costs_exactly_its_step",
        f"{_GUARD}::test_three_in_a_row_go_back_with_half_the_rate_and_another_order",
        f"{_GUARD}::test_a_run_that_cannot_recover_says_why",
        f"{_GUARD}::test_a_weight_that_became_infinite_is_no_checkpoint",
        f"{_GUARD}::test_a_nan_metric_never_wins_and_never_blocks",
        f"{_PROCESSES}::test_one_process_has_a_bad_step_and_all_skip_it",
    ),
    "T17": ("proofs/test_proofs::test_in_short",),
    "T18": ("proofs/test_proofs::test_in_short",),
    "T19": (f"{_PROCESSES}::test_a_flipped_bit_is_found_and_the_process_named",),
    "T20": (f"{_SOURCES}::test_no_damage_gives_anything_but_a_user_error_or_data", "proofs/test_proofs::test_in_short"),
    "T21": ("proofs/test_proofs::test_in_short",),
    "T22": ("proofs/test_proofs::test_in_short",),
    "T23": (
        "proofs/test_proofs::test_in_short",
        f"{_MODEL}::test_no_name_reaches_anything",
        f"{_MODEL}::test_hostile_configurations",
        f"{_MODEL}::test_any_change_of_a_configuration_loads_or_says_a_sentence",
    ),
    "T24": (
        "proofs/test_proofs::test_in_short",
        "app/test_app_routes::test_only_the_right_request_gets_through",
        f"{_APP_GUARD}::test_a_request_that_breaks_a_rule_is_refused",
        f"{_APP_GUARD}::test_a_guard_without_the_rule_is_found_out",
    ),
    "T25": (
        "proofs/test_proofs::test_in_short",
        "app/test_app_schema::test_schemathesis_finds_nothing",
        f"{_SERVER}::test_two_hundred_at_once_get_an_answer_each",
        "app/test_app_service::test_what_cannot_be_used_gets_one_sentence",
    ),
    "T26": (
        f"{_PAGE}::test_names_from_data_are_text",
        "app/test_app_routes::test_no_path_of_a_request_is_looked_up",
        "proofs/test_proofs::test_in_short",
    ),
    "T27": (f"{_SERVER}::test_it_works_without_a_network",),
    "T28": (
        f"{_MUTANTS}::test_a_resume_that_forgets_is_caught",
        f"{_APP_GUARD}::test_a_guard_without_the_rule_is_found_out",
    ),
    "T29": ("proofs/test_proofs::test_in_short",),
}


@cache
def functions(name: str) -> frozenset[str]:
    """Return the names of the test functions of a file below ``tests``."""
    path = ROOT / "tests" / f"{name}.py"
    if not path.is_file():
        return frozenset()
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))


def missing_tests(names: Iterable[str]) -> list[str]:
    """Return those of ``names`` (FILE::FUNCTION) that do not exist."""
    return [name for name in names if name.split("::")[1] not in functions(name.split("::")[0])]
