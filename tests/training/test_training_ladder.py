"""A ladder in training: exact resume, and metrics of each level."""

import pytest
import torch
from ladder_check import resumes, with_convolutions, with_ladder
from training_helpers import trainer


@pytest.mark.parametrize("change", [with_ladder, with_convolutions])
def test_a_ladder_goes_on_bit_for_bit(change):
    resumes(change)


def test_training_reports_the_kl_of_each_level_and_lowers_the_loss(tmp_path):
    run = trainer(tmp_path / "run", change=with_ladder, steps=120)
    run.fit()
    lines = [line for line in run.folder.metrics.read() if line["split"] == "validation"]
    for line in lines:
        assert line["kl_level_1"] + line["kl_level_2"] == pytest.approx(line["kl"], rel=1e-5)
    trained = [line for line in run.folder.metrics.read() if line["split"] == "train"]
    assert trained[-1]["elbo"] > trained[0]["elbo"] + 1
    assert all("skipped" in line for line in trained)
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())
