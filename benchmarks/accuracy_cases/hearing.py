"""Models that hear who speaks, which word is said, and which notes are played."""

from __future__ import annotations

import pathlib

import numpy as np

from accuracy_cases.case import Case, Outputs, agreement, first, package_folder
from accuracy_cases.sound import RATE, WORDS, speak

_VARIANTS = ("m1", "m3", "m7", "f1", "f2", "f4")


def _mel(sound: np.ndarray) -> np.ndarray:
    """librosa's mel spectrogram as the package takes it: power, 25 ms windows, 10 ms steps, 40 bands (Slaney's scale
    and norm), f32 [frames, 40]."""
    size, hop, bands = 400, 160, 40
    padded = np.pad(sound, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size + 1)[:-1])) ** 2
    step = np.log(6.4) / 27
    edges = np.linspace(0, 15 + np.log(RATE / 2 / 1000) / step, bands + 2)
    edges = np.where(edges < 15, edges * 200 / 3, 1000 * np.exp(step * (edges - 15)))
    bins = np.arange(size // 2 + 1) * RATE / size
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return (power @ filters.T).astype(np.float32)


def _speaker(voice: str, pieces: int, seed: int) -> list[np.ndarray]:
    """Pieces of 1.6 s of one speaker's speech as spectrograms, each f32 [1, 160, 40]."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < pieces * RATE * 1.6 + RATE:
        parts.append(speak(" ".join(rng.choice(WORDS, 60)), voice, 50, int(rng.integers(140, 190))))
    speech = np.concatenate(parts)
    speech = speech * (10 ** (-30 / 20) / np.sqrt(np.mean(speech**2)))
    noise = rng.normal(size=len(speech)) * 10 ** (-rng.uniform(50, 60) / 20)
    mel = _mel((speech + noise).astype(np.float32))
    return [mel[160 * index : 160 * (index + 1)][None] for index in range(pieces)]


def speakers(folder: pathlib.Path, items: int | None) -> Case:
    """Resemblyzer, a three-layer LSTM. Three pieces of each of 36 synthetic speakers enrol it, by the mean of their
    vectors; the metric is the speaker that is nearest to each of the other pieces."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)

        def forward(self, mel: torch.Tensor) -> torch.Tensor:
            vector = torch.relu(self.linear(self.lstm(mel)[1][0][-1]))
            return vector / torch.norm(vector, dim=1, keepdim=True)

    weights = torch.load(
        package_folder("resemblyzer", "resemblyzer==0.1.4") / "pretrained.pt", map_location="cpu", weights_only=True
    )["model_state"]
    model = Encoder()
    model.load_state_dict({name: value for name, value in weights.items() if name.startswith(("lstm", "linear"))})
    path = folder / "resemblyzer.onnx"
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, 160, 40),),
        str(path),
        opset_version=17,
        input_names=["mel"],
        output_names=["vector"],
        dynamo=False,
    )
    voices = [
        f"{language}+{variant}" for language in ("en-us", "en-gb", "fr", "es", "pt", "nl") for variant in _VARIANTS
    ]
    others = [f"{language}+{variant}" for language in ("de", "it") for variant in ("m2", "m4", "f3", "f5")]
    enrolled, tested = 3, max(1, (items or 540) // len(voices))
    calibration = [{"mel": mel} for voice in others for mel in _speaker(voice, 8, seed=0)]
    test = [{"mel": mel} for voice in voices for mel in _speaker(voice, enrolled + tested, seed=1)]

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        a, b = (first(each).astype(np.float64).reshape(len(voices), enrolled + tested, -1) for each in (real, outputs))

        def nearest(vectors: np.ndarray) -> np.ndarray:
            known = vectors[:, :enrolled].mean(1)
            known /= np.linalg.norm(known, axis=1, keepdims=True)
            return (vectors[:, enrolled:] @ known.T).argmax(2)

        cosines = (a * b).sum(2) / np.linalg.norm(a, axis=2) / np.linalg.norm(b, axis=2)
        return {
            "right speaker, %": agreement(np.arange(len(voices))[:, None].repeat(tested, 1), nearest(b)),
            "same as float, %": agreement(nearest(a), nearest(b)),
            "cosine to float, mean": float(cosines.mean()),
            "cosine to float, least": float(cosines.min()),
        }

    return Case(path, calibration, test, judge)


def _wake_clip(word: str, voice: str, rng: np.random.Generator) -> np.ndarray:
    """Two seconds that end soon after the word, in noise: f32 in the range of i16."""
    sound = speak(word, voice, int(rng.integers(20, 80)), int(rng.integers(110, 180)))
    loud = np.flatnonzero(np.abs(sound) > 0.02)
    sound = sound[: loud[-1] + 1] if len(loud) else sound
    end = 2 * RATE - int(rng.uniform(0.05, 0.35) * RATE)
    clip = np.zeros(2 * RATE)
    clip[max(0, end - len(sound)) : end] = sound[-min(end, len(sound)) :] * rng.uniform(0.3, 1.0)
    clip += rng.normal(size=len(clip)) * 10 ** (-rng.uniform(45, 65) / 20)
    return (clip * 32767).clip(-32768, 32767).astype(np.float32)


_OTHER = (
    "alexander", "a lesson", "electric", "relax now", "elections", "a lexicon", "alaska", "hello there", "all exits",
    "computer", "good morning", "texas", "annexes", "a letter", "unless her", "silver", "Alex said", "delicious",
)  # fmt: skip


def wake_word(folder: pathlib.Path, items: int | None) -> Case:
    """openWakeWord: Google's speech embedding of 16 windows, then the detector of "alexa", as one graph. The metric
    is the area under the ROC curve; the classes at the threshold .5 beside it."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, compose, helper, version_converter

    models = package_folder("openwakeword", "openwakeword==0.4.0") / "resources" / "models"
    front = ort.InferenceSession(str(models / "melspectrogram.onnx"), providers=["CPUExecutionProvider"])
    embedding, head = (onnx.load(models / name) for name in ("embedding_model.onnx", "alexa_v0.1.onnx"))
    embedding.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 16
    embedding.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 16
    del embedding.graph.value_info[:]
    join = helper.make_model(
        helper.make_graph(
            [helper.make_node("Reshape", ["vectors", "shape"], ["rows"])],
            "join",
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, [16, 1, 1, 96])],
            [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, 16, 96])],
            [helper.make_tensor("shape", TensorProto.INT64, [3], [1, 16, 96])],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    parts = [version_converter.convert_version(each, 13) for each in (embedding, join, head)]
    for part, prefix in zip(parts, ("embedding/", "join/", "head/"), strict=True):
        part.ir_version = 8
        compose.add_prefix(part, prefix, inplace=True)
    whole = compose.merge_models(parts[0], parts[1], [(parts[0].graph.output[0].name, "join/vectors")])
    whole = compose.merge_models(whole, parts[2], [("join/rows", parts[2].graph.input[0].name)])
    path = folder / "wake_word.onnx"
    onnx.save(whole, path)
    name = whole.graph.input[0].name

    def item(clip: np.ndarray) -> dict[str, np.ndarray]:
        mel = np.squeeze(front.run(None, {"input": clip[None]})[0]) / 10 + 2
        return {name: np.stack([mel[8 * index : 8 * index + 76] for index in range(16)])[..., None]}

    def clips(voices: tuple[str, ...], count: int, seed: int) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
        rng = np.random.default_rng(seed)
        found, classes = [], []
        for index in range(count):
            word = "alexa" if index % 2 else str(rng.choice(_OTHER))
            voice = f"{rng.choice(voices)}+{rng.choice(_VARIANTS)}"
            found.append(item(_wake_clip(word, voice, rng)))
            classes.append(index % 2)
        return found, np.array(classes, bool)

    calibration, _ = clips(("en-us", "de", "it"), 64, seed=0)
    test, classes = clips(("en-gb", "en-gb-scotland", "fr", "es", "pt", "nl"), items or 400, seed=1)

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        a, b = first(real)[:, 0].astype(np.float64), first(outputs)[:, 0].astype(np.float64)
        pairs = b[classes][:, None] - b[~classes][None]
        return {
            "area under ROC, %": 100 * float(np.mean((pairs > 0) + 0.5 * (pairs == 0))),
            "right at .5, %": agreement(classes, b > 0.5),
            "same as float at .5, %": agreement(a > 0.5, b > 0.5),
            "correlation with float": float(np.corrcoef(a, b)[0, 1]),
        }

    return Case(path, calibration, test, judge)


NOTE_RATE, NOTE_SAMPLES, NOTE_FRAMES = 22050, 43844, 172


def _chords(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of 2 s with up to 8 notes: f32 [count, samples], and which keys sound at each frame, bool [count, 172,
    88]."""
    rng = np.random.default_rng(seed)
    times = np.arange(NOTE_SAMPLES) / NOTE_RATE
    sounds, keys = [], np.zeros((count, NOTE_FRAMES, 88), bool)
    for index in range(count):
        sound = np.zeros(NOTE_SAMPLES)
        slope, decay = rng.uniform(1.0, 2.5), rng.uniform(0.5, 4.0)
        for _ in range(int(rng.integers(2, 9))):
            key, start, length = int(rng.integers(15, 70)), rng.uniform(-0.3, 1.6), rng.uniform(0.3, 1.5)
            pitch = 27.5 * 2 ** (key / 12)
            after = np.maximum(times - start, 0)
            shape = (
                np.exp(-decay * after) * np.clip(after / 0.01, 0, 1) * np.clip((start + length - times) / 0.03, 0, 1)
            )
            tone = np.zeros(NOTE_SAMPLES)
            for harmonic in range(1, int(min(20, NOTE_RATE / 2 / pitch)) + 1):
                tone += harmonic**-slope * np.sin(2 * np.pi * (harmonic * pitch * times + rng.uniform()))
            sound += rng.uniform(0.4, 1.0) * shape * tone
            frames = np.arange(NOTE_FRAMES) * 256 / NOTE_RATE
            keys[index, (frames >= start) & (frames < start + length), key] = True
        sound += rng.normal(size=NOTE_SAMPLES) * sound.std() * 10 ** (-rng.uniform(20, 50) / 20)
        sounds.append(0.8 * sound / np.abs(sound).max())
    return np.array(sounds, np.float32), keys


def notes(folder: pathlib.Path, items: int | None) -> Case:
    """Basic Pitch. The metric is the F1 of the keys that sound in each frame, at the package's threshold of .3."""
    path = package_folder("basic_pitch", "basic-pitch==0.4.0") / "saved_models" / "icassp_2022" / "nmp.onnx"
    calibration, _ = _chords(32, seed=0)
    test, keys = _chords(items or 100, seed=1)

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        wanted, got = (np.concatenate([item[1] for item in each]) > 0.3 for each in (real, outputs))

        def f1(a: np.ndarray, b: np.ndarray) -> float:
            return 200 * float((a & b).sum() / (a.sum() + b.sum()))

        return {"F1 of the notes, %": f1(keys, got), "F1 with float's, %": f1(wanted, got)}

    name = "serving_default_input_2:0"
    return Case(
        path,
        [{name: each[None, :, None]} for each in calibration],
        [{name: each[None, :, None]} for each in test],
        judge,
    )
