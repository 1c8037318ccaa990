"""The page docs/models.md, which benchmarks/models_in.py prints."""

from __future__ import annotations

import importlib.metadata

from models_in_result import BOUND, EXPORTERS, LARGEST, Result

_LIBRARIES = ("transformers", "timm", "torchvision")
_PAGE = """# Models that come in

{counted} of {total} models of torchvision, timm and transformers are imported and compiled for floats with an open
batch, and an open length where a model reads tokens. Each then runs with another batch and length than the example's,
and its results are torch's within {bound} of the largest magnitude of each result. All transformers get an attention
mask whose first row ends in two zeros. Models that failed were tried again after a change of the importer, so the
results may be of several states of it. Where torch's own results in f32 and in f64 differ by more than that, batch
norms get the statistics of the example and the model is tried once more.

The names are drawn from the libraries' registries by seed {seed}. Weights are random; configurations of transformers
are made small (`_SIZES` in the program). Models of more than {largest} million parameters are passed over, as are those
that read other inputs. Versions: {versions}.

    python benchmarks/models_in.py --seed {seed} --results results.json
    python benchmarks/models_in.py --seed 15 --counts transformers=8,timm=7,torchvision=5 --results second.json
    python benchmarks/models_in.py --seed {seed} --results results.json --second second.json --table > docs/models.md

| library | drawn | come in |
|---|---|---|
{summary}

## Failures

Detection models of torchvision end in non-maximum suppression. How many boxes it leaves depends on the numbers of the
image, and torch.export refuses the code that compares this count with others.

{failures}

## All models

| library | model | comes in | relative error |
|---|---|---|---|
{rows}

## Passed over

{passed}

## A second draw

{second}

## Through ONNX

The models of the first list are written by torch.onnx.export with open sizes, in the order of the list, and come in by
the file. A model is written if the exporter ends within 120 s of CPU time and, where a file does not come in, ONNX
Runtime gives torch's results for it with other sizes. The models count as above.

    python benchmarks/models_in.py --exporter dynamo --drawn results.json --results dynamo.json --limit 120
    python benchmarks/models_in.py --exporter torchscript --drawn results.json --results torchscript.json --limit 120

{onnx}
"""


def table(results: list[Result], seed: int, second: list[Result], onnx: list[list[Result]]) -> str:
    """The page of results, as Markdown. second: the results of another seed; onnx: those of both exporters."""
    drawn = [each for each in results if each.stage != "passed over"]
    good = [each for each in drawn if each.stage == "ok"]
    summary, passed = [], []
    for library in _LIBRARIES:
        own = [each for each in drawn if each.library == library]
        summary.append(f"| {library} | {len(own)} | {sum(each.stage == 'ok' for each in own)} |")
        skipped = [each for each in results if each.library == library and each.stage == "passed over"]
        for reason in sorted({_reason(each) for each in skipped}):
            names = ", ".join(f"`{each.name}`" for each in skipped if _reason(each) == reason)
            passed.append(f"- {library}, {reason}: {names}")
    failures = [
        f"- `{each.name}` ({each.library}), {each.stage}: {each.cause[:300]}" for each in drawn if each.stage != "ok"
    ]
    rows = [
        f"| {each.library} | {each.name} | {'yes' if each.stage == 'ok' else each.stage} |"
        f" {'' if each.error is None else f'{each.error:.1e}'} |"
        for each in drawn
    ]
    return _PAGE.format(
        counted=len(good),
        total=len(drawn),
        bound=BOUND,
        seed=seed,
        largest=LARGEST // 10**6,
        versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *_LIBRARIES)),
        summary="\n".join(summary),
        failures="\n".join(failures) or "None.",
        rows="\n".join(rows),
        passed="\n".join(passed),
        second=_second(second),
        onnx="\n".join(map(_through_onnx, EXPORTERS, onnx)) or "Not measured.",
    )


def _second(results: list[Result]) -> str:
    """What became of the models of another seed."""
    drawn = [each for each in results if each.stage != "passed over"]
    good = [each for each in drawn if each.stage == "ok"]
    failures = [
        f"- `{each.name}` ({each.library}), {each.stage}: {each.cause[:300]}" for each in drawn if each.stage != "ok"
    ]
    names = ", ".join(f"`{each.name}`" for each in good)
    return "\n".join([f"{len(good)} of {len(drawn)} models of another seed come in: {names}.", "", *failures])


def _through_onnx(exporter: str, results: list[Result]) -> str:
    """What became of the files of one exporter."""
    written = [each for each in results if each.stage != "export"]
    good = [each for each in written if each.stage == "ok"]
    lines = [
        f"### {exporter}",
        "",
        f"Of {len(results)} models tried, {len(written)} are written, and {len(good)} of these come in.",
        "",
        *(f"- `{each.name}` ({each.library}), {each.stage}: {each.cause}" for each in written if each.stage != "ok"),
        "",
        "Not written:",
        "",
        *(f"- `{each.name}` ({each.library}): {each.cause[:160]}" for each in results if each.stage == "export"),
        "",
    ]
    return "\n".join(lines)


def _reason(result: Result) -> str:
    """Why a name was passed over, without what is its own."""
    start = result.cause.partition(":")[0]
    return f"more than {LARGEST // 10**6} million parameters" if start.endswith(" parameters") else start
