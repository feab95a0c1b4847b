"""Which model types do not build here, and why."""

REFUSED: dict[str, str] = {}
