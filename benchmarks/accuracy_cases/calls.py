"""Scorers of speech in calls, each a CNN over a spectrogram and GRU layers in both directions: AECMOS, of what an echo
canceller leaves, and PLCMOS, of how lost packets are concealed."""

from __future__ import annotations

import pathlib

import numpy as np

from accuracy_cases.case import Case, Item, Judge, OpenModel, Outputs, package_folder
from accuracy_cases.sound import CALIBRATION_VOICES, RATE, TEST_VOICES, WORDS, speak

RECORDINGS = 200
CALIBRATION = 24
SECONDS = (5, 6, 7, 8)
HOP = 256


def scores_judge(names: tuple[str, ...]) -> Judge:
    """Judge scores, which stand first in the first output of each item, by their agreement with the float model's."""

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        a, b = (np.array([item[0].ravel()[: len(names)] for item in each], np.float64) for each in (real, outputs))
        figures: dict[str, float] = {}
        for index, name in enumerate(names):
            figures[f"{name}: correlation with float"] = float(np.corrcoef(a[:, index], b[:, index])[0, 1])
            figures[f"{name}: mean difference"] = float(np.mean(np.abs(a[:, index] - b[:, index])))
            figures[f"{name}: float's deviation"] = float(a[:, index].std())
        return figures

    return judge


def _utterance(rng: np.random.Generator, voices: tuple[str, ...], samples: int) -> np.ndarray:
    """Speech by one of the voices, with pauses: f64 [samples], of a root mean square of 0.05 without the pauses."""
    text = " ".join(rng.choice(WORDS, 30))
    speech = speak(text, str(rng.choice(voices)), int(rng.integers(20, 80)), int(rng.integers(120, 200)))
    speech = np.resize(speech, samples).astype(np.float64)
    speech *= 0.05 / speech.std()
    for _ in range(int(rng.integers(0, 3))):
        start = int(rng.integers(samples))
        speech[start : start + RATE] = 0
    return speech


def _noise(rng: np.random.Generator, samples: int, decibels: float) -> np.ndarray:
    """Pink noise of this root mean square relative to 0.05."""
    spectrum = np.fft.rfft(rng.normal(size=samples))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1.0), samples)
    return noise * (0.05 / noise.std()) * 10 ** (decibels / 20)


def _room(rng: np.random.Generator, sound: np.ndarray) -> np.ndarray:
    """A sound after 20 to 120 ms in a small room that rings for 50 to 300 ms."""
    times = np.arange(RATE // 2) / RATE
    ringing = rng.normal(size=len(times)) * np.exp(-6.9 * times / rng.uniform(0.05, 0.3))
    delay = int(rng.uniform(0.02, 0.12) * RATE)
    size = len(sound) + len(times)
    heard = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(ringing, size), size)[: len(sound)]
    heard = np.concatenate([np.zeros(delay), heard])[: len(sound)]
    return heard * sound.std() / max(heard.std(), 1e-9)


def _call(rng: np.random.Generator, voices: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the far end, what the microphone hears, what the echo canceller makes of it), each f64 [samples].

    One or both ends talk. The canceller takes from nothing to 60 dB off the echo, and leaves the near end whole,
    muffled, clipped or cut up.
    """
    samples = int(rng.choice(SECONDS)) * RATE
    talks = int(rng.integers(3))  # the far end, the near end, both
    far = _utterance(rng, voices, samples) if talks != 1 else _noise(rng, samples, -60)
    near = _utterance(rng, voices, samples) if talks != 0 else np.zeros(samples)
    echo, noise = _room(rng, far) * 10 ** (rng.uniform(-15, 5) / 20), _noise(rng, samples, rng.uniform(-60, -10))
    cleaned = near
    match int(rng.integers(5)):
        case 0:
            cleaned = np.convolve(near, np.ones(12) / 12, "same")
        case 1:
            cleaned = np.clip(near, -0.05, 0.05)
        case 2:
            gate = np.repeat(rng.integers(0, 4, samples // 1600 + 1) > 0, 1600)[:samples]
            cleaned = near * gate
    left = echo * 10 ** (-rng.uniform(0, 60) / 20) + noise * 10 ** (-rng.uniform(0, 30) / 20)
    return far, near + echo + noise, cleaned + left


def _mel_filters(bands: int, size: int) -> np.ndarray:
    """Triangles of equal area over `bands` mel bands up to RATE / 2, f64 [bands, size // 2 + 1].

    The mel scale is Slaney's (Auditory Toolbox, 1998): linear to 1 kHz, then logarithmic.
    """
    step = np.log(6.4) / 27
    top = 15 + np.log(RATE / 2 / 1000) / step
    mels = np.linspace(0, top, bands + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    frequencies = np.arange(size // 2 + 1) * RATE / size
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def _frames(sound: np.ndarray, size: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(sound, size)[::HOP]


def _mel_spectrogram(sound: np.ndarray, size: int = 513, bands: int = 160) -> np.ndarray:
    """Decibels below the loudest cell, at most 80, in the model's units: f32 [frames, bands]."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    frames = _frames(np.pad(sound, size // 2), size)
    power = np.abs(np.fft.rfft(frames * window)) ** 2 @ _mel_filters(bands, size).T
    decibels = 10 * np.log10(np.maximum(power, 1e-10))
    decibels -= 10 * np.log10(max(power.max(), 1e-10))
    return ((np.maximum(decibels, decibels.max() - 80) + 40) / 40).astype(np.float32)


def _calls(voices: tuple[str, ...], count: int, seed: int) -> list[Item]:
    rng = np.random.default_rng(seed)
    state = np.zeros((4, 1, 64), np.float32)
    return [
        {"input": np.stack([_mel_spectrogram(each) for each in _call(rng, voices)])[None], "h0": state}
        for _ in range(count)
    ]


def echo(folder: pathlib.Path, items: int | None) -> Case:
    """AECMOS without a marker of who talks: a score of the echo that is heard, and one of other degradations."""
    path = package_folder("speechmos", "speechmos==0.0.1.1") / "aecmos_models" / "Run_1663829550_Stage_0.onnx"
    calibration = _calls(CALIBRATION_VOICES, CALIBRATION, seed=0)
    test = _calls(TEST_VOICES, items or RECORDINGS, seed=1)
    opened = OpenModel(path, test[0], {"input": {2: "frames"}})
    return Case(path, calibration, test, scores_judge(("echo", "other")), opened)


def _lossy(voices: tuple[str, ...], count: int, seed: int) -> list[Item]:
    """Speech of which 0 to 40 % of the packets of 20 ms are lost, in bursts, and replaced by silence, by the packet
    before, or by a fading repetition of it; a spectrogram of log amplitudes, and the rater's random vector."""
    rng = np.random.default_rng(seed)
    packet, window = RATE // 50, np.hamming(513)[:-1]
    found: list[Item] = []
    for _ in range(count):
        samples = int(rng.choice(SECONDS)) * RATE
        sound = _utterance(rng, voices, samples) + _noise(rng, samples, rng.uniform(-60, -15))
        packets = sound[: samples // packet * packet].reshape(-1, packet)
        share, burst = rng.uniform(0, 0.4), rng.uniform(1, 6)
        kept, concealed = True, int(rng.integers(3))
        for index in range(1, len(packets)):
            kept = rng.random() >= (share / burst / (1 - share) if kept else 1 - 1 / burst)
            if not kept:
                packets[index] = packets[index - 1] * (0, 1, 0.7)[concealed]
        amplitude = np.abs(np.fft.rfft(_frames(np.pad(packets.ravel(), (HOP, 2 * HOP)), 512) * window))
        features = np.log(np.maximum(amplitude**2, 1e-12)) / 20
        rater = rng.normal(size=(1, 64)).astype(np.float32)
        found.append({"degraded_audio": features.astype(np.float32)[None, None], "rater_embed": rater})
    return found


def lost_packets(folder: pathlib.Path, items: int | None) -> Case:
    """PLCMOS: one score."""
    path = package_folder("speechmos", "speechmos==0.0.1.1") / "plcmos_models" / "plcmos_v2.onnx"
    calibration = _lossy(CALIBRATION_VOICES, CALIBRATION, seed=0)
    test = _lossy(TEST_VOICES, items or RECORDINGS, seed=1)
    opened = OpenModel(path, test[0], {"degraded_audio": {2: "frames"}})
    return Case(path, calibration, test, scores_judge(("score",)), opened)
