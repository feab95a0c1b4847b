"""A run as another tool would print it, as a person reads it: the figure, and the bridge from ours to theirs.

Not here: figures (`conventions`).
"""

from collections.abc import Iterable
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from flopmeter.conventions.translation import Translation
from flopmeter.units import print_flop, print_ratio

DIGITS = 4


def print_translation(translation: Translation, console: Console, *, name: str) -> None:
    """Print what the other tool would, or why that cannot be told."""
    for part in _parts(translation, name):
        console.print(part)


def render_translation(translation: Translation, *, name: str, width: int = 100) -> str:
    """Return the same as plain text of a given width, for files and documents."""
    stream = StringIO()
    print_translation(translation, Console(file=stream, width=width, color_system=None), name=name)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _parts(translation: Translation, name: str) -> Iterable[RenderableType]:
    tool = translation.tool
    yield Text.assemble(("run ", "dim"), (name, "bold"), " as ", (tool.name, "bold"), f": {tool.figure}")
    yield Text(f"after {tool.source}", style="dim")
    yield Text()
    if translation.flop is None:
        yield Text.assemble(("cannot tell", "bold yellow"), ", for want of")
        for missing in translation.missing:
            yield Text(f"  {missing}")
    else:
        yield from _figure(translation, translation.flop)
    for title, said in translation.besides.items():
        yield Text(f"{title}: {said}")
    for note in translation.notes:
        yield Text(f"note: {note}", style="yellow")


def _figure(translation: Translation, flop: int) -> Iterable[RenderableType]:
    if translation.fraction is not None:
        ratio = (print_ratio(translation.fraction), "bold cyan")
        yield Text.assemble((f"{translation.tool.name.upper()} ", "bold"), ratio)
    yield (
        Text.assemble((f"{flop:,} FLOP", "bold cyan"), f", {print_ratio(flop / translation.ours)} of ours")
        if (translation.ours)
        else Text(f"{flop:,} FLOP", style="bold cyan")
    )
    yield Text()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    table.add_column("from ours to theirs", overflow="fold")
    table.add_column("FLOP", justify="right")
    table.add_column("why")
    table.add_row(
        "flopmeter, convention fm-1",
        print_flop(translation.ours, digits=DIGITS),
        "every operation that ran",
        style="bold",
    )
    for line in translation.bridge:
        table.add_row(line.term, _signed(line.flop), line.why)
    table.add_row(translation.tool.name, print_flop(flop, digits=DIGITS), "the sum, exactly", style="bold")
    yield table
    yield Text()
    if translation.inputs:
        yield Text("made of " + ", ".join(f"{key} {value}" for key, value in translation.inputs.items()))


def _signed(flop: int) -> str:
    return ("−" if flop < 0 else "+") + print_flop(abs(flop), digits=DIGITS)
