"""How scores are written: COCO's are fractions, the others percent."""


def digits(score: str) -> int:
    """Decimals that papers print of the score of this name."""
    return 3 if score.startswith(("AP", "AR")) else 1


def with_unit(score: str) -> str:
    """The name as the label of an axis."""
    return score if digits(score) == 3 else f"{score} (%)"
