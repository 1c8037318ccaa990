"""Rendered pages of text in four rotations.

The fonts are those that come with matplotlib. Calibration and test pages share neither font nor text.
"""

from __future__ import annotations

import pathlib

import numpy as np

CALIBRATION_FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf")
TEST_FONTS = ("DejaVuSansMono.ttf", "STIXGeneral.ttf", "cmr10.ttf", "DejaVuSans-Oblique.ttf")
SIZE = 224
_MEAN, _STD = (np.array(values, np.float32) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
_TEXT = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an "
    "they which one you were all her she there would their we him been has when who will no more if out so up "
    "said what its about than into them can only other time new some could these two may first then do any "
    "like my now over such our man me even most made after also did many off before must well back through "
    "years where much your way down should because long each just those people take too good little state "
    "world very still see men work know between river mountain garden window letter paper station engine "
    "copper winter market silver journey morning "
)
_WORDS = _TEXT.split()


def _font_path(name: str) -> pathlib.Path:
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ModuleNotFoundError("pip install matplotlib: its fonts are used") from None
    return pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name


def _page(font_name: str, rng: np.random.Generator) -> np.ndarray:
    """u8 [h, w, 3]: paragraphs, black on nearly white."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = int(rng.integers(400, 640)), int(rng.integers(400, 640))
    size = int(rng.integers(14, 30))
    font = ImageFont.truetype(str(_font_path(font_name)), size)
    paper, ink = int(rng.integers(225, 256)), int(rng.integers(0, 70))
    image = Image.new("RGB", (width, height), (paper, paper, paper))
    draw = ImageDraw.Draw(image)
    y = int(rng.integers(10, 40))
    while y < height - size:
        line, x = "", int(rng.integers(10, 40))
        while draw.textlength(line, font=font) < width - x - 8 * size:
            line += ("" if not line else " ") + str(rng.choice(_WORDS))
        draw.text((x, y), line.capitalize() + ("." if rng.integers(3) == 0 else ""), fill=(ink, ink, ink), font=font)
        y += int(size * (1.25 if rng.integers(6) else 2.2))
    return np.asarray(image)


def _prepared(page: np.ndarray) -> np.ndarray:
    """A page as the model's package prepares it: the shorter side scaled to 256, the middle cut out, and normalised."""
    from PIL import Image

    height, width = page.shape[:2]
    scale = 256 / min(height, width)
    resized = np.asarray(
        Image.fromarray(page).resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
    )
    top, left = (resized.shape[0] - SIZE) // 2, (resized.shape[1] - SIZE) // 2
    middle = resized[top : top + SIZE, left : left + SIZE].astype(np.float32) / 255
    return ((middle - _MEAN) / _STD).transpose(2, 0, 1)


def pages(fonts: tuple[str, ...], each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every page in its four rotations, f32 [4 * len(fonts) * each, 3, 224, 224], and the quarter turns of each."""
    rng = np.random.default_rng(seed)
    images, turns = [], []
    for font in fonts:
        for _ in range(each):
            page = _page(font, rng)
            for turn in range(4):
                images.append(_prepared(np.ascontiguousarray(np.rot90(page, turn))))
                turns.append(turn)
    return np.stack(images).astype(np.float32), np.array(turns)
