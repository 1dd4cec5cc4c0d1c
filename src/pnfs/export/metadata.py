"""What an exported file says about itself, so that a runtime needs nothing else."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from pnfs.codec import Codec
from pnfs.errors import PnfsError

Outputs = Literal["maps", "joints"]
"""What an exported model returns: score maps, or joints and their scores."""

FilePrecision = Literal["f32", "int8"]
"""What an exported file computes in: all of it in float32, or most convolutions in 8-bit integers."""

_PREFIX = "pnfs."

CODEC_FIELDS = ("decode_method", "sigma", "unbiased", "flip_shift")
"""What a file says of the `Codec`."""

_ADDED_LATER = ("precision", "parts")
"""Properties that earlier files lack; the defaults hold for them."""


class ExportError(PnfsError):
    """A model that cannot be exported, or an exported file that cannot be used; says why and what to do."""


@dataclass(frozen=True)
class ModelMetadata:
    """Properties of an exported model, written into the file under keys that begin with "pnfs.".

    Attributes:
        input_size: (height, width) of the images.
        stride: Image pixels for each pixel of a heatmap.
        skeleton, joints, limbs, flip_pairs: The skeleton's name and fields; joints in the order of the outputs.
        outputs: What the model returns.
        decode_method, sigma, unbiased, flip_shift: Fields of the `Codec`.
        padding: Factor on the sides of a person's box, as in training.
        checkpoint: SHA-256 of the checkpoint's file; "" without one.
        precision: What the file computes in.
        parts: Names of the parts, each with its joints; none in older files.
    """

    input_size: tuple[int, int]
    stride: int
    skeleton: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]
    flip_pairs: tuple[tuple[str, str], ...]
    outputs: Outputs
    decode_method: str = "quarter"
    sigma: float = 2.0
    unbiased: bool = False
    flip_shift: int = 1
    padding: float = 1.25
    checkpoint: str = ""
    precision: FilePrecision = "f32"
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def codec(self) -> Codec:
        """How heatmaps are read and crops measured."""
        read: dict[str, Any] = {name: getattr(self, name) for name in CODEC_FIELDS}
        return Codec(**read)

    def to_properties(self) -> dict[str, str]:
        """Key -> JSON text."""
        values = asdict(self).items()
        return {_PREFIX + name: json.dumps(value, allow_nan=False) for name, value in values}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], where: object) -> "ModelMetadata":
        """The inverse of `to_properties`, for the file `where`; other properties are left aside.

        Raises:
            ExportError: Something is missing or damaged; names the property.
        """
        values, name = {}, ""
        try:
            for name in (field.name for field in fields(cls)):
                if _PREFIX + name in properties:
                    values[name] = json.loads(properties[_PREFIX + name])
                elif name not in _ADDED_LATER:
                    raise ExportError(
                        f"{where}: its property {_PREFIX}{name} is missing; `pnfs export` did not write it"
                    )
            return TypeAdapter(cls).validate_python(values)
        except (json.JSONDecodeError, ValidationError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {}
            name, reason = first.get("loc", [name])[0], first.get("msg", error)
            raise ExportError(
                f"{where}: its property {_PREFIX}{name} is damaged, or of another version: {reason}; export "
                "it again"
            ) from None
