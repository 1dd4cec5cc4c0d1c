"""What an exported file says about itself, so that a runtime needs nothing else."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, cast

from pydantic import TypeAdapter, ValidationError

from pnfs.codec import Codec, DecodeMethod
from pnfs.errors import PnfsError

Outputs = Literal["maps", "joints"]
"""What an exported model returns: score maps, or joints and their scores."""

FilePrecision = Literal["f32", "int8"]
"""What an exported file computes in: all of it in float32, or most convolutions in 8-bit integers."""

_PREFIX = "pnfs."

_ADDED_LATER = ("precision", "parts")
"""Properties that earlier files lack; the defaults hold for them."""


class ExportError(PnfsError):
    """A model that cannot be exported, or an exported file that cannot be used; says why and what to do."""


@dataclass(frozen=True)
class ModelMetadata:
    """Properties of an exported model, written into the file under keys that begin with "pnfs.".

    Attributes:
        input_size: (height, width) of the images.
        stride: Image pixels for each pixel of a score map.
        skeleton: Name of the skeleton.
        joints: Its joints, in the order of the outputs.
        limbs: Pairs of joints that are drawn as a line.
        flip_pairs: Pairs of joints that a mirrored image exchanges.
        outputs: What the model returns.
        decode_method: How joints are located in the maps: argmax, quarter, dark.
        sigma: Standard deviation of the Gaussians that the maps were trained on, in pixels of a map.
        unbiased: Whether crops and maps are measured in pixel intervals (UDP).
        flip_shift: Pixels by which mirrored maps move to the right in a flip test.
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
        return Codec(
            sigma=self.sigma,
            unbiased=self.unbiased,
            decode_method=cast(DecodeMethod, self.decode_method),
            flip_shift=cast(Literal[0, 1], self.flip_shift),
        )

    def to_properties(self) -> dict[str, str]:
        """Key -> JSON text."""
        return {
            _PREFIX + name: json.dumps(value, allow_nan=False)
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], where: object) -> "ModelMetadata":
        """The inverse of `to_properties`.

        Args:
            properties: The file's properties; other keys are left aside.
            where: The file, for messages.

        Raises:
            ExportError: Something is missing or damaged; names the property.
        """
        values, name = {}, ""
        try:
            for name in (field.name for field in fields(cls)):
                text = properties.get(_PREFIX + name)
                if text is not None:
                    values[name] = json.loads(text)
                elif name not in _ADDED_LATER:
                    raise ExportError(
                        f"{where}: its property {_PREFIX}{name} is missing; this is no file that "
                        "`pnfs export` wrote"
                    )
            return TypeAdapter(cls).validate_python(values)
        except (json.JSONDecodeError, ValidationError) as error:
            reason = str(error)
            if isinstance(error, ValidationError):
                name, reason = str(error.errors()[0]["loc"][0]), error.errors()[0]["msg"]
            raise ExportError(
                f"{where}: its property {_PREFIX}{name} is damaged, or of another version: {reason}; export "
                "it again"
            ) from None
