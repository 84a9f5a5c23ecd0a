"""Answers as TensorFlow Serving's REST API does: a line of standard input in, a line out.

    python tests/tensorflow_serving.py MODEL_BASE_PATH

Knows nothing of ours, and sees to it: what it is told is the folder alone, the rest it finds in the
signature. https://www.tensorflow.org/tfx/serving/api_rest has the rules.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.modules.update(dict.fromkeys(("services", "shared", "tests")))  # to import one is an error

import tensorflow as tf  # noqa: E402


def newest(base: Path) -> Path:
    """The version that is served: of the folders with a number for a name the greatest."""
    numbered = [folder for folder in base.iterdir() if folder.name.isdecimal()]
    return max(numbered, key=lambda folder: int(folder.name))


class Servable:
    def __init__(self, base: Path) -> None:
        self.folder = newest(base)
        self._loaded = tf.saved_model.load(str(self.folder))

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of `POST /v1/models/<name>:predict`."""
        signature = self._loaded.signatures[body.get("signature_name", "serving_default")]
        _, wanted = signature.structured_input_signature
        if ("instances" in body) == ("inputs" in body):
            raise ValueError("give either 'instances' or 'inputs'")
        by_row = "instances" in body
        columns = _of_rows(body["instances"], wanted) if by_row else body["inputs"]
        if not isinstance(columns, dict):
            columns = {next(iter(wanted)): columns}
        tensors = {name: tf.constant(columns[name], spec.dtype) for name, spec in wanted.items()}
        for name, spec in wanted.items():
            if not spec.shape.is_compatible_with(tensors[name].shape):
                raise ValueError(f"{name}: {tensors[name].shape} is not {spec.shape}")
        outputs = {name: value.numpy().tolist() for name, value in signature(**tensors).items()}
        single = next(iter(outputs.values())) if len(outputs) == 1 else None
        if not by_row:
            return {"outputs": outputs if single is None else single}
        rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
        return {"predictions": rows if single is None else single}


def _of_rows(rows: list[Any], wanted: dict[str, Any]) -> dict[str, list[Any]]:
    named = [row if isinstance(row, dict) else {next(iter(wanted)): row} for row in rows]
    return {name: [row[name] for row in named] for name in wanted}


def main() -> None:
    servable = Servable(Path(sys.argv[1]))
    print(json.dumps({"version": int(servable.folder.name)}), flush=True)
    for line in sys.stdin:
        try:
            answer = servable.predict(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
