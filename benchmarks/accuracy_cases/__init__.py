"""Models with a metric, found inside packages of others or trained here. See `benchmarks/accuracy.py`."""

from functools import partial

from accuracy_cases import calls, hearing, lines, pictures, scenes, sentences, sound, texts, trained
from accuracy_cases.case import Maker

CASES: dict[str, Maker] = {
    "MiniLM-L6, opset 14": sentences.opset_14,
    "MiniLM-L6, opset 17": sentences.opset_17,
    "SIG, speech quality": sound.speech_quality,
    "AEC, echo in calls": calls.echo,
    "PLC, lost packets": calls.lost_packets,
    "LAY, layout": pictures.layout,
    "CREPE, pitch": sound.pitch,
    "G2, text lines": lines.text_lines,
    "ORI, page orientation": pictures.page_orientation,
    "EFF, EfficientNet-Lite0": pictures.photographs,
    "MobileNetV2 features": pictures.features,
    "the demo's ResNet": pictures.fashion,
    "GRU in small ops": trained.gru,
    "LSTM in small ops": trained.lstm,
    "LSTM layers": partial(trained.recurrent_layers, kind="LSTM"),
    "GRU layers": partial(trained.recurrent_layers, kind="GRU"),
    "log front end": trained.log_front_end,
    "Magika, file types": texts.file_types,
    "AttaCut, Thai words": texts.thai_words,
    "Resemblyzer, speakers": hearing.speakers,
    "openWakeWord, a wake word": hearing.wake_word,
    "Basic Pitch, notes": hearing.notes,
    "CenterFace, faces": scenes.faces,
    "Real-ESRGAN, enlarged photographs": scenes.enlarge,
}
