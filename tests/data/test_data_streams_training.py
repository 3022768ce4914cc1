"""A training on streamed, prefetched data is the training on data in memory, also after a stop in mid-epoch."""

import numpy as np
import pytest
import torch
from data_helpers import save_image
from training_helpers import COUNT, At, Crash, crash, everything, resumed, straight, tiny, trainer

from sfumato.data import Order
from sfumato.data.streams import Prefetched, Streamed, stream_images


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The training examples of the tiny training as 203 images of 8x8 in a folder: of the same values."""
    folder = tmp_path_factory.mktemp("images")
    x, y = tiny()[2].batch(torch.arange(COUNT))
    for number, row in enumerate(x.numpy()):
        save_image(folder / f"{number:03}.png", row.reshape(8, 8))
    return stream_images(folder, None, False, 10**6).x, y


def streaming(source, orders=None):
    """Return the change of parts that puts prefetched, streamed examples of the same values in place."""
    rows, y = source

    class Flat:
        """The same rows, (64,) instead of (1, 8, 8)."""

        def __init__(self, inner):
            self.inner = inner

        def __len__(self):
            return len(self.inner)

        shape = (64,)

        def batch(self, indices):
            x, labels = self.inner.batch(indices)
            return x.flatten(1), labels

    def change(model, objective, train, validation, preprocessing):
        ahead = Prefetched(Streamed(rows, np.arange(COUNT), y), Order(COUNT, 16, seed=5), ahead=4, workers=1)
        if orders is not None:
            orders.append(ahead)
        return model, objective, Flat(ahead), validation, preprocessing

    return change


def test_it_is_the_training_on_data_in_memory(source, tmp_path):
    used = []
    memory = straight(tmp_path / "memory")
    streamed = trainer(tmp_path / "streamed", change=streaming(source, used))
    streamed.fit()
    assert everything(streamed) == memory
    assert used[0].missed == 0
    assert used[0].foreseen == 60
    used[0].close()


@pytest.mark.parametrize("stop", [7, 17])
def test_resume_in_mid_epoch_is_exact(stop, source, tmp_path):
    used = []
    whole = straight(tmp_path / "whole")
    broken = trainer(tmp_path / "broken", change=streaming(source, used), listener=At(stop, crash))
    with pytest.raises(Crash):
        broken.fit()
    again = resumed(tmp_path / "broken", change=streaming(source, used))
    assert 0 < again.state.step < 60
    assert again.state.step % 13, "in the middle of an epoch of 13 steps"
    used[-1].expect(again._order, again.state.step)
    again.fit()
    assert [name for name, value in everything(again).items() if value != whole[name]] == []
    assert used[-1].missed == 0
    for ahead in used:
        ahead.close()
