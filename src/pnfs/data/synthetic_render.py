"""Pictures of synthetic people: backgrounds, clothed figures, occluders, light and noise.

OpenCV draws with anti-aliasing at a sixteenth of a pixel; (0, 0) is the centre of the upper left
pixel, as everywhere in pnfs. Images are RGB.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, Int32, UInt8
from numpy.random import Generator

from pnfs.data.synthetic_body import LIMBS, SIDES, Figures

Image = UInt8[np.ndarray, "H W 3"]
Color = tuple[float, float, float]

_FRACTION_BITS = 4
_SKIN_TONES: tuple[Color, ...] = (
    (255, 224, 196), (240, 200, 170), (224, 172, 130), (198, 140, 100),
    (160, 105, 70), (120, 78, 50), (90, 58, 40),
)  # fmt: skip
_HAIR_COLORS: tuple[Color, ...] = (
    (25, 20, 18), (60, 40, 25), (100, 65, 35), (150, 100, 45), (205, 170, 95), (150, 150, 150),
)  # fmt: skip


@dataclass(frozen=True)
class Appearance:
    """The colours of a person's limbs and head."""

    limbs: dict[str, Color]
    torso: Color
    hips: Color
    skin: Color
    hair: Color
    long_hair: bool


def random_color(rng: Generator) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), 0.85 * rng.random(), rng.uniform(0.2, 1))
    return 255 * red, 255 * green, 255 * blue


def random_appearance(rng: Generator, side_cue: bool) -> Appearance:
    """Clothes with short, long or no sleeves and legs, skin and hair.

    Args:
        rng: Where the choice comes from.
        side_cue: Whether sleeves, trouser legs and shoes are darker on the person's right.
    """
    shirt, trousers, shoes = (random_color(rng) for _ in range(3))
    skin = _shaded(_SKIN_TONES[rng.integers(len(_SKIN_TONES))], rng.uniform(0.92, 1.04))
    hair = _shaded(_HAIR_COLORS[rng.integers(len(_HAIR_COLORS))], rng.uniform(0.8, 1.2))
    sleeve, shorts, long_hair = rng.random(), rng.random() < 0.3, rng.random() < 0.35
    worn = {
        "upper_arm": skin if sleeve < 0.15 else shirt,
        "forearm": shirt if sleeve > 0.6 else skin,
        "hand": skin,
        "thigh": trousers,
        "shin": skin if shorts else trousers,
        "foot": shoes,
    }
    limbs = {"neck": skin, "head": skin}
    for side in SIDES:
        shade = 0.6 if side_cue and side == "right" else 1.0
        for limb, color in worn.items():
            limbs[f"{side}_{limb}"] = color if color == skin else _shaded(color, shade)
    return Appearance(limbs, shirt, trousers, skin, hair, long_hair)


def _shaded(color: Color, factor: float) -> Color:
    red, green, blue = color
    return min(255.0, red * factor), min(255.0, green * factor), min(255.0, blue * factor)


# --- Shapes ------------------------------------------------------------------------------------

_SWEEP = np.linspace(0, 1, 9)
_AROUND = np.linspace(0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_AROUND), np.sin(_AROUND)], axis=1)
_SQUARE = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])


def fill(image: Image, polygon: Float64[np.ndarray, "P 2"], color: Color) -> None:
    """Fills a convex polygon in place."""
    _fill_fixed_point(image, _fixed_point(polygon), color)


def _fixed_point(polygons: Float64[np.ndarray, "..."]) -> Int32[np.ndarray, "..."]:
    return np.rint(polygons * (1 << _FRACTION_BITS)).astype(np.int32)


def _fill_fixed_point(image: Image, polygon: Int32[np.ndarray, "P 2"], color: Color) -> None:
    cv2.fillConvexPoly(image, polygon, color, cv2.LINE_AA, _FRACTION_BITS)


def capsules(
    ends: Float64[np.ndarray, "C 2 2"], radii: Float64[np.ndarray, "C 2"]
) -> Float64[np.ndarray, "C Q 2"]:
    """Outlines of C tapered capsules: discs around both ends and their common tangents."""
    axis = ends[:, 1] - ends[:, 0]
    length = np.maximum(np.hypot(axis[:, 0], axis[:, 1]), 1e-6)
    heading = np.arctan2(axis[:, 1], axis[:, 0])[:, None]
    # Where the tangents touch; one disc may lie inside the other.
    touch = np.arccos(np.clip((radii[:, 0] - radii[:, 1]) / length, -1, 1))[:, None]
    first = heading + touch + _SWEEP * (2 * np.pi - 2 * touch)
    second = heading - touch + _SWEEP * 2 * touch
    angle = np.stack([first, second], axis=1)
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    outlines = ends[:, :, None] + radii[:, :, None, None] * rim
    return outlines.reshape(len(ends), -1, 2)


def turned_shape(
    center: Float64[np.ndarray, " 2"],
    half: Float64[np.ndarray, " 2"],
    angle: float,
    ellipse: bool,
) -> Float64[np.ndarray, "P 2"]:
    """Outline of an ellipse or rectangle with half axes `half`, turned by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return center + ((_CIRCLE if ellipse else _SQUARE) * half) @ np.array([[c, s], [-s, c]])


def _disc(image: Image, center: np.ndarray, radius: float, color: Color) -> None:
    x, y = np.rint(center[:2] * (1 << _FRACTION_BITS)).astype(int).tolist()
    size = max(1, round(radius * (1 << _FRACTION_BITS)))
    cv2.circle(image, (x, y), size, color, cv2.FILLED, cv2.LINE_AA, _FRACTION_BITS)


# --- People ------------------------------------------------------------------------------------

_LIMB_NAMES = tuple(LIMBS)
_TORSO = len(LIMBS)


def draw_person(image: Image, figures: Figures, row: int, look: Appearance) -> None:
    """Draws person `row` in place, limbs far from the camera first."""
    edge = max(0.7, 0.006 * float(figures.unit[row]))
    ends, radii = (column[row] for column in figures.limbs())
    # Each limb three times: a dark outline, the limb, a light ridge that makes it look round.
    layers = capsules(np.tile(ends, (3, 1, 1)), np.concatenate([radii + edge, radii, radii / 2]))
    layers = _fixed_point(layers).reshape(3, len(LIMBS), -1, 2)
    facing = bool(figures.facing()[row])
    for limb in np.argsort(-figures.depths()[row], kind="stable").tolist():
        if limb == _TORSO:
            _draw_torso(image, figures, row, look, edge)
        elif _LIMB_NAMES[limb] == "head":
            _draw_head(image, figures, row, look, edge)
            if look.long_hair and not facing:
                _draw_long_hair(image, figures, row, look)
        else:
            if look.long_hair and facing and _LIMB_NAMES[limb] == "neck":
                _draw_long_hair(image, figures, row, look)
            color = look.limbs[_LIMB_NAMES[limb]]
            for layer, shade in zip(layers[:, limb], (0.6, 1.0, 1.1), strict=True):
                _fill_fixed_point(image, layer, _shaded(color, shade))


def _draw_torso(image: Image, figures: Figures, row: int, look: Appearance, edge: float) -> None:
    corners, radii = (column[row] for column in figures.torso())
    for margin, shade in ((edge, 0.6), (0.0, 1.0)):
        discs = corners[:, None] + (radii + margin)[:, None, None] * _CIRCLE[::2]
        hull = cv2.convexHull(discs.reshape(-1, 2).astype(np.float32))[:, 0]
        fill(image, hull, _shaded(look.torso, shade))
    thorax, pelvis = figures.at("thorax")[row, :2], figures.at("pelvis")[row, :2]
    # The waistband: the hips of the torso again, a little lower and thinner.
    hips = corners[2:] + 0.05 * (pelvis - thorax)
    fill(image, capsules(hips[None], 0.78 * radii[None, 2:])[0], look.hips)
    if figures.chest_to_camera()[row]:
        # An open collar tells the chest from the back.
        across = 0.25 * (corners[0] - corners[1])
        tip = thorax + 0.28 * (pelvis - thorax)
        fill(image, np.array([thorax - across, tip, thorax + across]), look.skin)


def _draw_head(image: Image, figures: Figures, row: int, look: Appearance, edge: float) -> None:
    at = {name: figures.at(name)[row, :2] for name in _HEAD_POINTS}
    facing = bool(figures.facing()[row])
    ends, radii = (column[row, _LIMB_NAMES.index("head")] for column in figures.limbs())
    unit, (near, far) = float(figures.unit[row]), radii
    crown, chin = ends
    # The face is the front of the head: it slides over the skull as the head turns.
    slide = 0.02 * unit * figures.forward[row, :2]
    brow = crown + 0.3 * (chin - crown)
    shapes = capsules(
        np.array([ends, ends, (crown, crown), (brow + slide, chin + slide)]),
        np.array([radii + edge, radii, (near, near), (0.82 * near, far)]),
    )
    dark, jaw = _shaded(look.hair, 0.6), look.skin if facing else look.hair
    for shape, color in zip(shapes[:3], (dark, jaw, look.hair), strict=True):
        fill(image, shape, color)
    for ear in ("left_ear", "right_ear"):
        if figures.face_turned_to_camera(ear)[row]:
            _disc(image, at[ear], 0.014 * unit, _shaded(look.skin, 0.85))
    if facing:
        fill(image, shapes[3], look.skin)
        _draw_features(image, figures, row, at, look)


def _draw_long_hair(image: Image, figures: Figures, row: int, look: Appearance) -> None:
    ends = np.array([[figures.at("crown")[row, :2], figures.at("upper_neck")[row, :2]]])
    radii = float(figures.unit[row]) * np.array([[0.06, 0.058]])
    fill(image, capsules(ends, radii)[0], look.hair)


_HEAD_POINTS = ("chin", "nose", "left_eye", "right_eye", "left_ear", "right_ear")


def _draw_features(
    image: Image, figures: Figures, row: int, at: dict[str, np.ndarray], look: Appearance
) -> None:
    unit = float(figures.unit[row])
    for eye in ("left_eye", "right_eye"):
        if figures.face_turned_to_camera(eye)[row]:
            _disc(image, at[eye], 0.0105 * unit, (245, 245, 245))
            _disc(image, at[eye], 0.006 * unit, (30, 25, 25))
    if figures.face_turned_to_camera("nose")[row]:
        _disc(image, at["nose"], 0.010 * unit, _shaded(look.skin, 0.72))
        mouth = at["nose"] + 0.7 * (at["chin"] - at["nose"])
        across = 0.35 * (at["left_eye"] - at["right_eye"])
        lips = np.array([[mouth - across, mouth + across]])
        fill(image, capsules(lips, np.full((1, 2), 0.005 * unit))[0], (165, 60, 60))


# --- Everything around them --------------------------------------------------------------------


def background(rng: Generator, size: tuple[int, int], clutter: int) -> Image:
    """A soft random scene with `clutter` bars, boxes and ellipses; size is (height, width)."""
    height, width = size
    cells = int(rng.integers(2, 9))
    coarse = np.array(random_color(rng)) + rng.normal(0, rng.uniform(10, 45), (cells, cells, 3))
    coarse = np.clip(coarse, 0, 255).astype(np.uint8)
    # Smooth at a quarter of the size, where it is cheap.
    smooth = cv2.resize(coarse, (width // 4, height // 4), interpolation=cv2.INTER_CUBIC)
    image = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.6:
        left, right = rng.uniform(0.5, 0.9) * height + rng.normal(0, 4, 2)
        floor = [(-1, left), (width, right), (width, height), (-1, height)]
        fill(image, np.array(floor), random_color(rng))
    centers = rng.uniform((0, 0), (width, height), (clutter, 2))
    halves = rng.uniform(0.01, 0.16, (clutter, 2)) * height
    kinds, angles = rng.integers(3, size=clutter), rng.uniform(0, np.pi, clutter)
    halves[kinds == 0] *= (2.0, 0.25)
    for center, half, kind, angle in zip(centers, halves, kinds, angles, strict=True):
        fill(image, turned_shape(center, half, angle, ellipse=kind == 2), random_color(rng))
    return image


def lit(rng: Generator, image: Image, noise: int) -> Image:
    """The picture under uneven light, with sensor noise of up to `noise` grey levels."""
    height, width = image.shape[:2]
    # 128 stands for unchanged; the light differs from corner to corner and slightly in colour.
    corners = rng.uniform(0.75, 1.15) * rng.uniform(0.87, 1.15, (2, 2, 1))
    corners = 128 * corners * rng.uniform(0.95, 1.05, 3)
    light = cv2.resize(corners.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    image = cv2.multiply(image, light, scale=1 / 128)
    grain = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.addWeighted(image, 1.0, grain, 2 * noise / 255, -noise)
