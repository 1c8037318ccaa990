"""One system in one process: it builds a model, then runs it whenever the parent asks, and blocks on a pipe in between.

The child writes {"ready": seconds} when the model is built. Then it answers each line that it reads from stdin:
`output PATH` saves the output for the fixed sample, and a number of seconds runs the model for about that long, three
calls at least, and writes {"median_ms": .., "min_ms": .., "calls": ..}.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr

    import numpy as np
    from models import MODELS
    from systems import SYSTEMS, sample

    start = time.perf_counter()
    call = SYSTEMS[options.system](options.model, options.batch, options.threads, options.folder)
    x = sample(MODELS[options.model][1], options.batch)
    result = np.asarray(call(x))
    for _ in range(3):
        call(x)
    print(json.dumps({"ready": time.perf_counter() - start}), file=out, flush=True)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "output":
            np.save(rest, result)
            print(json.dumps({"saved": rest}), file=out, flush=True)
            continue
        times: list[float] = []
        end = time.perf_counter() + float(word)
        while time.perf_counter() < end or len(times) < 3:
            begin = time.perf_counter()
            call(x)
            times.append((time.perf_counter() - begin) * 1e3)
        print(
            json.dumps({"median_ms": float(np.median(times)), "min_ms": min(times), "calls": len(times)}),
            file=out,
            flush=True,
        )


if __name__ == "__main__":
    main()
