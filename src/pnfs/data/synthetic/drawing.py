"""Pictures of drawn people: backgrounds, clothed figures, occluders, light and noise.

OpenCV draws with anti-aliasing at a sixteenth of a pixel; (0, 0) is the centre of the upper left
pixel, as everywhere in pnfs. Images are RGB.
"""

import colorsys

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.random import Generator

from pnfs.data.synthetic.body import LIMBS, TORSO_RADIUS, Figures

Image = UInt8[np.ndarray, "H W 3"]
Color = tuple[float, float, float]

_SHIFT = 4
_SKIN = ((255, 224, 196), (224, 172, 130), (198, 140, 100), (160, 105, 70), (90, 58, 40))
_HAIR = ((25, 20, 18), (60, 40, 25), (150, 100, 45), (205, 170, 95), (150, 150, 150))


def random_color(rng: Generator) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), 0.85 * rng.random(), rng.uniform(0.2, 1))
    return 255 * red, 255 * green, 255 * blue


def random_appearance(rng: Generator) -> dict[str, Color]:
    """Colours by limb, and of "torso", "skin" and "hair": sleeves and trousers are long or short."""
    shirt, trousers = random_color(rng), random_color(rng)
    skin, hair = (_shaded(some[rng.integers(5)], rng.uniform(0.9, 1.1)) for some in (_SKIN, _HAIR))
    sleeve, shorts = rng.random(), rng.random() < 0.3
    worn = {
        "arm": skin if sleeve < 0.15 else shirt, "forearm": shirt if sleeve > 0.6 else skin,
        "thigh": trousers, "shin": skin if shorts else trousers, "neck": skin, "head": hair,
    }  # fmt: skip
    looks = {limb: worn[limb.rsplit("_", 1)[-1]] for limb in LIMBS}
    return looks | {"torso": shirt, "skin": skin, "hair": hair}


def _shaded(color: tuple[float, ...], factor: float) -> Color:
    red, green, blue = (min(255.0, channel * factor) for channel in color)
    return red, green, blue


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _stroke(image: Image, ends: np.ndarray, radius: float, color: Color) -> None:
    """A line with round ends."""
    (first, last), width = _fixed(ends).tolist(), max(1, round(2 * radius))
    cv2.line(image, first, last, color, width, cv2.LINE_AA, _SHIFT)


def disc(image: Image, center: np.ndarray, radius: float, color: Color) -> None:
    """A filled circle, in place."""
    size = max(1, round(radius * (1 << _SHIFT)))
    cv2.circle(image, _fixed(center).tolist(), size, color, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def draw_person(image: Image, figures: Figures, row: int, looks: dict[str, Color]) -> None:
    """Draws person `row` in place, what is far from the camera first."""
    unit, names = float(figures.unit[row]), [*LIMBS, "torso"]
    ends, radii = (column[row] for column in figures.limbs())
    corners = figures.torso()[row]
    for part in np.argsort(-figures.depths()[row], kind="stable").tolist():
        # A dark outline keeps limbs of one colour apart.
        for margin, shade in ((max(0.7, 0.006 * unit), 0.6), (0.0, 1.0)):
            color = _shaded(looks[names[part]], shade)
            if names[part] == "torso":
                cv2.fillConvexPoly(image, _fixed(corners), color, cv2.LINE_AA, _SHIFT)
                for edge in range(4):
                    sides = corners[[edge, edge - 1]]
                    _stroke(image, sides, TORSO_RADIUS * unit + margin, color)
            else:
                _stroke(image, ends[part], radii[part] + margin, color)
        if names[part] == "head":
            _draw_face(image, figures, row, unit, ends[part].mean(0), looks["skin"])


def _draw_face(
    image: Image, figures: Figures, row: int, unit: float, center: np.ndarray, skin: Color
) -> None:
    """Ears, and of a person who looks into the camera the face, which slides over the head as it turns."""
    facing = bool(figures.facing()[row])
    if facing:
        low = center + np.array([0, 0.012 * unit])
        disc(image, low + 0.02 * unit * figures.forward[row, :2], 0.045 * unit, skin)
    for name, (radius, color) in _FEATURES.items():
        seen = figures.face_turned_to_camera(name)[row] and (facing or "ear" in name)
        if seen:
            disc(image, figures.at(name)[row, :2], radius * unit, color or _shaded(skin, 0.75))


_FEATURES: dict[str, tuple[float, Color | None]] = {
    "left_ear": (0.014, None), "right_ear": (0.014, None), "left_eye": (0.009, (30, 25, 25)),
    "right_eye": (0.009, (30, 25, 25)), "nose": (0.010, None),
}  # fmt: skip
"""Points of the face: radius, colour; None: a darker skin."""


def background(rng: Generator, size: tuple[int, int], clutter: int) -> Image:
    """A soft random scene with `clutter` bars and discs; size is (height, width)."""
    height, width = size
    cells = int(rng.integers(2, 9))
    coarse = np.array(random_color(rng)) + rng.normal(0, rng.uniform(10, 45), (cells, cells, 3))
    coarse = np.clip(coarse, 0, 255).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    for bar in rng.random(clutter) < 0.7:
        places = rng.uniform((0, 0), (width, height)) + rng.uniform(-0.2, 0.2, (2, 2)) * height
        radius = rng.uniform(0.01, 0.08) * height
        if bar:
            _stroke(image, places, radius, random_color(rng))
        else:
            disc(image, places[0], radius, random_color(rng))
    return image


def lit(rng: Generator, image: Image, noise: int) -> Image:
    """The picture under light of another strength and colour, with noise of up to `noise` grey levels."""
    light = rng.uniform(0.7, 1.25) * rng.uniform(0.95, 1.05, 3)
    image = cv2.multiply(image, np.array([*light, 1.0]))
    grain = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.addWeighted(image, 1.0, grain, 2 * noise / 255, -noise)
