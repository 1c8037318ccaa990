"""How many models of torchvision, timm and transformers come in: docs/models.md is this program's output, but for the
section that `transformers_dynamic.py` appends.

A seed draws model names from the libraries' registries. Weights are random, and configurations of transformers are
made small; nothing else of a model is changed. A model counts if it is imported, compiled for floats with an open batch
(and an open length if it reads tokens), and if its results for other sizes than the example's are torch's, within 1e-4
of the largest magnitude of each result.

    python benchmarks/models_in.py --seed 14 --results results.json             # all of them, one process each
    python benchmarks/models_in.py --seed 14 --results results.json --only bert # those again whose names contain "bert"
    python benchmarks/models_in.py --results results.json --second others.json --table > docs/models.md

With `--exporter` the drawn models come in by a file that torch.onnx.export writes, and a model counts if the exporter
writes one that ONNX Runtime runs for other sizes too:

    python benchmarks/models_in.py --exporter dynamo --drawn results.json --results dynamo.json --limit 120
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from models_in_page import table
from models_in_result import BOUND, EXPORTERS, LARGEST, Result

COUNTS = {"transformers": 34, "timm": 26, "torchvision": 20}


@dataclass
class Case:
    """A model with example inputs by name, other inputs, and the names of the open axes."""

    module: Any
    examples: dict[str, Any]
    others: dict[str, Any]
    dynamic: dict[str, dict[int, str]]
    by_name: bool


# -- the registries


def _transformers_names() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return sorted(MODEL_MAPPING_NAMES)


def _timm_names() -> list[str]:
    import timm

    return sorted(timm.list_models())


def _torchvision_names() -> list[str]:
    import torchvision

    return sorted(torchvision.models.list_models())


_SIZES = {
    name: size
    for size, names in (
        (2, "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_decoder_layers"),
        (2, "num_encoder_layers num_hidden_groups inner_group_num"),
        (64, "hidden_size d_model n_embd dim emb_dim embed_dim embedding_size model_dim n_embed"),
        (128, "intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim hidden_dim d_inner ffn_hidden_size"),
        (128, "moe_intermediate_size shared_expert_intermediate_size inner_dim"),
        (4, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads"),
        (4, "attention_heads num_encoder_attention_heads num_decoder_attention_heads"),
        (2, "num_key_value_heads num_kv_heads multi_query_group_num"),
        (16, "head_dim d_kv d_head attention_head_size"),
        (128, "vocab_size encoder_vocab_size decoder_vocab_size max_position_embeddings n_positions max_seq_len"),
        (4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
        (2, "num_experts_per_tok moe_k moe_topk"),
        (1, "pad_token_id bos_token_id eos_token_id decoder_start_token_id"),
    )
    for name in names.split()
}
"""The sizes of small configurations, by the names that configurations give them."""


class NotDrawn(Exception):
    """Why a name of a registry is passed over."""


def _transformers_case(name: str) -> Case:
    import inspect

    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    try:
        plain = AutoConfig.for_model(name)
        parameters = inspect.signature(MODEL_MAPPING[type(plain)].forward).parameters
        if not {"input_ids", "attention_mask"} <= set(parameters):
            raise NotDrawn("does not read input_ids and attention_mask")
        small = {key: size for key, size in _SIZES.items() if isinstance(getattr(plain, key, None), int)}
        config = type(plain)(**small)
        config.use_cache = False
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
        if count > LARGEST:
            raise NotDrawn(f"{count} parameters")
        module = AutoModel.from_config(config).eval()
    except NotDrawn:
        raise
    except Exception as error:
        raise NotDrawn(f"no small configuration: {type(error).__name__} {str(error)[:80]}") from None

    def inputs(batch: int, length: int) -> dict[str, Any]:
        ids = torch.randint(2, 128, (batch, length), generator=torch.Generator().manual_seed(batch))
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[0, length - 2 :] = 0
        made = {"input_ids": ids, "attention_mask": mask}
        if "decoder_input_ids" in parameters:
            made["decoder_input_ids"] = ids.flip(1)
        return made

    examples = inputs(2, 12)
    dynamic = {key: {0: "B", 1: "S"} for key in examples}
    return Case(module, examples, inputs(3, 10), dynamic, by_name=True)


def _images(module: Any, *shape: int) -> Case:
    import torch

    parameters = sum(p.numel() for p in module.parameters())
    if parameters > LARGEST:
        raise NotDrawn(f"{parameters} parameters")
    torch.manual_seed(1)
    return Case(module, {"x": torch.randn(2, *shape)}, {"x": torch.randn(3, *shape)}, {"x": {0: "B"}}, by_name=False)


def _timm_case(name: str) -> Case:
    import timm
    import torch

    with torch.device("meta"):
        try:
            count = sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
        except Exception:  # some models compute with their own weights
            count = 0
    if count > LARGEST:
        raise NotDrawn(f"{count} parameters")
    module = timm.create_model(name, pretrained=False).eval()
    return _images(module, *module.default_cfg["input_size"])


def _torchvision_case(name: str) -> Case:
    import torchvision

    kind = torchvision.models.get_model_builder(name).__module__
    more = {"weights_backbone": None} if ".segmentation." in kind or ".detection." in kind else {}
    module = torchvision.models.get_model(name, weights=None, **more).eval()
    if ".video." in kind:
        return _images(module, 3, 16, 112, 112)
    return _images(module, 3, 224, 224)


LIBRARIES = {
    "transformers": (_transformers_names, _transformers_case),
    "timm": (_timm_names, _timm_case),
    "torchvision": (_torchvision_names, _torchvision_case),
}


def _randomize(module: Any) -> None:
    """Draw statistics, gains and weights of zeros so that they hide no mistake; other weights stay as they are."""
    import torch

    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1 and tensor.numel():
                low = 0.8 if key.endswith(("running_var", "weight")) else -0.1
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + low)
            elif tensor.is_floating_point() and not tensor.any():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)


def _fit_batch_norms(case: Case) -> None:
    """Give batch norms the statistics that they see with the examples."""
    import torch

    for layer in case.module.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = None
            layer.reset_running_stats()
    with torch.no_grad():
        _called(Case(case.module.train(), case.examples, {}, {}, case.by_name), case.examples)
    case.module.eval()


# -- one model


def _leaves(item: Any) -> list[Any]:
    import numpy as np
    import torch

    if isinstance(item, (torch.Tensor, np.ndarray)):
        return [np.asarray(item)]
    if hasattr(item, "items"):
        return [leaf for part in item.values() for leaf in _leaves(part)]
    if isinstance(item, (list, tuple)):
        return [leaf for part in item for leaf in _leaves(part)]
    return []


def _distance(got: Any, want: Any) -> float:
    """The largest distance of two results, relative to the largest magnitude of each array."""
    import numpy as np

    found, expected = _leaves(got), _leaves(want)
    if len(found) != len(expected):
        return float("inf")
    worst = 0.0
    for a, b in zip(found, expected):
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            return float("inf")
        if a.size:
            a, b = a.astype(np.float64), b.astype(np.float64)
            with np.errstate(invalid="ignore"):
                apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
            scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
            worst = max(worst, float(apart.max()) / max(float(scale), 1e-30))
    return worst if worst == worst else float("inf")


def _tensors(item: Any) -> list[Any]:
    """The tensors of nested results, in order."""
    import torch

    if isinstance(item, torch.Tensor):
        return [item]
    parts = item.values() if hasattr(item, "items") else item if isinstance(item, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _export(case: Case, exporter: str, path: pathlib.Path) -> None:
    """Write the model by torch.onnx.export. Its inputs have the names of the examples, and its results are flat."""
    import torch

    names = tuple(case.examples)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = case.module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            given = dict(zip(names, tensors))
            return tuple(_tensors(_called(case, given)))

    sizes: dict[str, Any]
    if exporter == "dynamo":
        dims = [{axis: torch.export.Dim.DYNAMIC for axis in axes} for axes in case.dynamic.values()]
        sizes = {"dynamic_shapes": (tuple(dims),), "verbose": False}
    else:
        sizes = {"dynamic_axes": case.dynamic}
    arguments = tuple(case.examples.values())
    with torch.no_grad():
        torch.onnx.export(Flat().eval(), arguments, path, dynamo=exporter == "dynamo", input_names=list(names), **sizes)


def _onnxruntime_refuses(path: pathlib.Path, arrays: dict[str, Any], want: Any) -> str:
    """Why the file is wrong by ONNX Runtime's answer for these inputs; "" if it is not."""
    import onnxruntime

    try:
        onnxruntime.set_default_logger_severity(4)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        got = session.run(None, arrays)
    except Exception as error:
        return " ".join(f"ONNX Runtime: {type(error).__name__}: {error}".split())[:300]
    distance = _distance(got, _tensors(want))
    return f"ONNX Runtime's results differ by {distance:.1e}" if distance > BOUND else ""


def _check_onnx(library: str, name: str, exporter: str, tell: Callable[[str], None]) -> Result:
    """What becomes of a model that comes in by a file of torch.onnx.export."""
    import onnx
    import torch

    import qcompiler as qc

    torch.manual_seed(0)
    torch.set_num_threads(1)
    case = LIBRARIES[library][1](name)
    _randomize(case.module)
    with torch.no_grad():
        wants = [_called(case, inputs) for inputs in (case.examples, case.others)]
    result = Result(library, name, "export")
    examples, others = ({k: t.numpy() for k, t in inputs.items()} for inputs in (case.examples, case.others))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        tell("export")
        try:
            _export(case, exporter, path)
        except Exception as error:
            root: BaseException = error
            while root.__cause__ is not None:
                root = root.__cause__
            result.cause = " ".join(f"{type(root).__name__}: {root}".split())[:200]
            return result
        try:
            tell("compile")
            result.stage = "compile"
            read = {each.name for each in onnx.load(path, load_external_data=False).graph.input}
            examples, others = ({k: t for k, t in arrays.items() if k in read} for arrays in (examples, others))
            compiled = qc.compile(path, None, examples)
            tell("run")
            result.stage = "run"
            for inputs, want in zip((others, examples), reversed(wants)):
                got = compiled(**inputs)
                result.error = max(result.error or 0.0, _distance(got, _tensors(want)))
            if result.error is not None and result.error <= BOUND:
                result.stage = "ok"
                return result
            result.cause = f"results differ by {result.error:.1e}"
        except Exception as error:
            result.cause = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        refused = _onnxruntime_refuses(path, others, wants[1])
        if refused:
            result.stage, result.cause = "export", refused
    return result


def _check(library: str, name: str, stage: str, fitted: bool = False) -> Result:
    """What becomes of a model. fitted: give its batch norms the statistics of the example, because with drawn ones
    torch's own results in f32 and in f64 differ by more than the bound."""
    import torch

    import qcompiler as qc
    from qcompiler.frontend.torch_import import import_torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    case = LIBRARIES[library][1](name)
    _randomize(case.module)
    if fitted:
        _fit_batch_norms(case)
    result = Result(library, name, "import")
    try:
        with torch.no_grad():
            wants = [_called(case, inputs) for inputs in (case.examples, case.others)]
    except Exception as error:
        raise NotDrawn(f"needs other inputs: {type(error).__name__} {str(error)[:80]}") from None
    try:
        given = case.examples if case.by_name else tuple(case.examples.values())
        dynamic = case.dynamic if case.by_name else {i: axes for i, axes in enumerate(case.dynamic.values())}
        if stage == "import":
            import_torch(case.module, given, dynamic=dynamic)
            result.stage = "imported"
            return result
        result.stage = "compile"
        compiled = qc.compile(case.module, None, given, dynamic=dynamic)
        result.stage = "run"
        for inputs, want in zip((case.others, case.examples), reversed(wants)):
            arrays = {key: tensor.numpy() for key, tensor in inputs.items()}
            got = compiled(**arrays) if case.by_name else compiled(*arrays.values())
            result.error = max(result.error or 0.0, _distance(got, want))
        if result.error is not None and result.error > BOUND:
            own = _distance(wants[1], _in_double(case, case.others))
            result.cause = f"results differ by {result.error:.1e}; torch's own in f32 and f64 by {own:.1e}"
            if own > BOUND and not fitted:
                return _check(library, name, stage, fitted=True)
        else:
            result.stage = "ok"
    except Exception as error:
        if stage == "trace":
            raise
        result.cause = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        if type(error).__name__ == "TraceError" and result.stage == "compile":
            result.stage = "import"
    return result


def _called(case: Case, inputs: dict[str, Any]) -> Any:
    return case.module(**inputs) if case.by_name else case.module(*inputs.values())


def _in_double(case: Case, inputs: dict[str, Any]) -> Any:
    """torch's results in f64."""
    import torch

    wide = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in inputs.items()}
    case.module.double()
    with torch.no_grad():
        return _called(case, wide)


def _child(connection: Any, library: str, name: str, stage: str, exporter: str | None, limit: int) -> None:
    def tell(reached: str) -> None:
        """Say which stage begins, and end the process if it needs more CPU time than the limit."""
        most = int(time.process_time()) + limit
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        connection.send(reached)

    begin = time.process_time()
    tell("export" if exporter else "run")
    try:
        result = _check_onnx(library, name, exporter, tell) if exporter else _check(library, name, stage)
    except NotDrawn as reason:
        result = Result(library, name, "passed over", str(reason))
    except Exception as error:
        if stage == "trace":
            raise
        result = Result(library, name, "passed over", " ".join(f"{type(error).__name__}: {error}".split())[:300])
    result.seconds = time.process_time() - begin
    connection.send(result)


def run(library: str, name: str, stage: str, limit: int, exporter: str | None = None) -> Result:
    """One model in a forked process, so that a crash is one model's. limit: seconds of CPU time of each stage."""
    here, there = multiprocessing.get_context("fork").Pipe()
    arguments = (there, library, name, stage, exporter, limit)
    process = multiprocessing.get_context("fork").Process(target=_child, args=arguments)
    process.start()
    there.close()
    reached = "run"
    try:
        while not isinstance(told := here.recv(), Result):
            reached = told
        return told
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        cause = f"more than {limit} s of CPU time" if late else f"the process ended with {process.exitcode}"
        return Result(library, name, reached, cause)
    finally:
        process.kill()
        process.join()


# -- all models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--results", type=pathlib.Path, required=True, help="a JSON file, read and written")
    parser.add_argument("--counts", help="models of each library, such as transformers=34,timm=26")
    parser.add_argument("--only", nargs="*", help="try again the drawn models whose names contain one of these")
    parser.add_argument("--failed", action="store_true", help="try again the models that do not count")
    parser.add_argument("--stage", choices=("import", "all", "trace"), default="all")
    parser.add_argument("--limit", type=int, default=400, help="seconds of CPU time for one model")
    parser.add_argument("--second", type=pathlib.Path, help="with --table: the results of another seed")
    parser.add_argument("--table", action="store_true", help="print the page of results")
    parser.add_argument("--exporter", choices=EXPORTERS, help="let the drawn models come in by ONNX files")
    parser.add_argument("--drawn", type=pathlib.Path, help="with --exporter: the results that name the models")
    parser.add_argument(
        "--onnx", nargs=2, type=pathlib.Path, default=(), help="with --table: results of dynamo and of torchscript"
    )
    options = parser.parse_args()
    known = json.loads(options.results.read_text()) if options.results.exists() else []
    results = {(each["library"], each["name"]): Result(**each) for each in known}
    if options.table:
        second = json.loads(options.second.read_text()) if options.second else []
        files = [json.loads(path.read_text()) for path in options.onnx]
        onnx = [[Result(**each) for each in file] for file in files]
        print(table(list(results.values()), options.seed, [Result(**each) for each in second], onnx), end="")
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    _import_libraries()
    if options.exporter:
        _through_onnx(options, results)
        return
    visited: dict[tuple[str, str], Result] = {}
    counts = COUNTS if not options.counts else {k: int(v) for k, v in (c.split("=") for c in options.counts.split(","))}
    for library, count in counts.items():
        names = LIBRARIES[library][0]()
        random.Random(f"{options.seed} {library}").shuffle(names)
        drawn = 0
        for name in names:
            if drawn == count:
                break
            result = results.get((library, name))
            again = options.only is not None and any(part in name for part in options.only)
            again |= options.failed and result is not None and result.stage not in ("ok", "passed over")
            if again or result is None:
                result = run(library, name, options.stage, options.limit)
                print(f"{library} {name}: {result.stage} {result.cause} {result.error}", file=sys.stderr, flush=True)
            results[library, name] = visited[library, name] = result
            drawn += result.stage != "passed over"
            options.results.write_text(json.dumps([asdict(each) for each in results.values()], indent=1))
    options.results.write_text(json.dumps([asdict(each) for each in visited.values()], indent=1))
    drawn_results = [each for each in visited.values() if each.stage != "passed over"]
    print(f"{sum(each.stage == 'ok' for each in drawn_results)} of {len(drawn_results)}")


def _through_onnx(options: argparse.Namespace, results: dict[tuple[str, str], Result]) -> None:
    """Let the models that another file of results names come in by ONNX files, in the order of that file."""
    for each in json.loads(options.drawn.read_text()):
        library, name = key = each["library"], each["name"]
        again = options.only is not None and any(part in name for part in options.only)
        again |= options.failed and key in results and results[key].stage not in ("ok", "export")
        if each["stage"] == "passed over" or (key in results and not again):
            continue
        results[key] = result = run(library, name, "all", options.limit, options.exporter)
        print(f"{library} {name}: {result.stage} {result.cause} {result.error}", file=sys.stderr, flush=True)
        options.results.write_text(json.dumps([asdict(each) for each in results.values()], indent=1))
    written = [each for each in results.values() if each.stage != "export"]
    print(f"{sum(each.stage == 'ok' for each in written)} of {len(written)} that were written")


def _import_libraries() -> None:
    """Import what every child needs, once."""
    import timm  # noqa: F401
    import torch
    import torchvision  # noqa: F401
    import transformers

    import qcompiler  # noqa: F401

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    small = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    module = transformers.AutoModel.from_config(small).eval()
    torch.export.export(module, (torch.zeros(1, 2, dtype=torch.int64),), strict=False)


if __name__ == "__main__":
    main()
