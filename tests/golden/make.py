"""Write the golden folders of the current format version: once for each version, and never again.

    PYTHONPATH=tests/golden:tests/training python tests/golden/make.py

What is there already is left alone: golden folders are what older versions wrote, not what this one would write.
"""

import json
import shutil

import torch
from golden_models import GOLDEN, PLACE, made, numbers, run_data, run_trees
from training_helpers import At, terminate

from sfumato.io.folder import FORMAT_VERSION, save_model
from sfumato.verbs import listeners
from sfumato.verbs.train import train

STOP = 11


def main():
    """Write what is not there."""
    torch.set_num_threads(1)
    place = PLACE / f"format-{FORMAT_VERSION}"
    for name in GOLDEN:
        if not (place / name).exists():
            packaged, raw, labels = made(name)
            save_model(place / name / "model", packaged, card={"data": name})
            said = numbers(packaged, raw, labels)
            said = {key: [float(f"{value:.9g}") for value in values] for key, values in said.items()}
            about = {"raw": raw.tolist(), "labels": None if labels is None else labels.tolist()}
            (place / name / "numbers.json").write_text(json.dumps({**about, **said}) + "\n")
    if not (place / "run").exists():
        listeners.write_report = lambda path, **content: None
        train(run_data(), out=place / "run", config=run_trees(), listener=At(STOP, terminate))
        for name in (".lock", "report.html", "tensorboard"):
            path = place / "run" / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
