"""OpCall: one operator call as names, shapes, precisions and scalars. No tensors, no torch.

The sensor makes these; formulas read them; ledgers keep them, so that any figure can be computed again.
Where integers inside a tensor decide the cost (where each packed sequence begins, say), they stand beside its shape.
Not here: what a call costs.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Self, TypeAlias

from flopmeter import wire
from flopmeter.errors import FormulaError, MalformedError

FLOATS = frozenset(
    {"fp64", "fp32", "tf32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "fp8_e4m3fnuz", "fp8_e5m2fnuz", "fp8_e8m0", "fp4"}
)
COMPLEX = frozenset({"complex32", "complex64", "complex128"})
LONGEST_WALK = 2**20
"""How many places of one size a formula looks at, at most."""
MOST_ELEMENTS = 2**63
"""A tensor has fewer elements than this, and every dimension is smaller: torch counts them in 64 bits."""
_TENSOR = re.compile(
    r"([a-z][a-z0-9_]*)\[((?:0|[1-9][0-9]{0,39})(?:,(?:0|[1-9][0-9]{0,39}))*)?\]"
    r"(?:nnz(0|[1-9][0-9]{0,39}))?(?:\{((?:-?[0-9]{1,20}(?:,-?[0-9]{1,20})*)?)\})?\Z"
)
_INT = re.compile(r"-?(0|[1-9][0-9]{0,39})\Z")
_FLOAT = re.compile(r"-?[0-9]+\.[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and storage precision of a tensor; the whole of what leaves torch.

    `stored` are the entries that a sparse tensor keeps, None for a dense one. `values` are the integers inside, in
    order, where a formula asked for them and the host knew them; else None.
    """

    shape: tuple[int, ...]
    dtype: str = "fp32"
    stored: int | None = None
    values: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Number of elements.

        Units: elements; 1 for a scalar tensor.
        """
        return math.prod(self.shape)

    def __str__(self) -> str:
        """Return the form that ledgers keep, such as `fp32[2,3]`, `fp32[9,9]nnz4` or `int32[3]{0,5,9}`."""
        stored = "" if self.stored is None else f"nnz{self.stored}"
        values = "" if self.values is None else f"{{{','.join(map(str, self.values))}}}"
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{stored}{values}"


@dataclass(frozen=True, slots=True)
class AnyNumber:
    """A scalar whose value changes no cost (a learning rate, an epsilon), kept as `*`."""

    def __str__(self) -> str:
        """Return the form that ledgers keep."""
        return "*"


Arg: TypeAlias = "TensorSpec | AnyNumber | bool | int | float | str | tuple[Arg, ...] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCall:
    """One operator call.

    `op` is `namespace::name` without overload; `args` are positional as the operator's schema orders them, trailing
    defaults left out; `options` are keyword-only arguments by name; `out` are the tensors that came out;
    `precision` is that of the arithmetic.
    """

    op: str
    args: tuple[Arg, ...] = ()
    options: tuple[tuple[str, Arg], ...] = ()
    out: tuple[TensorSpec, ...] = ()
    precision: str = field(default="")

    def __post_init__(self) -> None:
        """Derive the precision where the sensor did not give one."""
        if not self.precision:
            object.__setattr__(self, "precision", derive_precision(_computed_in(self.tensors, self.out)))

    @classmethod
    def of(
        cls,
        op: str,
        *args: "Sequence[int] | Arg",
        dtype: str = "fp32",
        out: Sequence[Sequence[int]] = (),
        precision: str = "",
        **options: Arg,
    ) -> Self:
        """Write a call down by hand: a tuple of ints is a tensor's shape in `dtype`.

        Example:
            >>> str(OpCall.of("aten::mm", (2, 3), (3, 5)).args[0])
            'fp32[2,3]'
        """
        return cls(
            op=op,
            args=tuple(_by_hand(arg, dtype) for arg in args),
            options=tuple(sorted((name, _by_hand(value, dtype)) for name, value in options.items())),
            out=tuple(TensorSpec(tuple(shape), dtype) for shape in out),
            precision=precision,
        )

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Every tensor among the arguments, lists flattened, in order."""
        found: list[TensorSpec] = []
        _gather((*self.args, *(value for _, value in self.options)), found)
        return tuple(found)

    @property
    def out_size(self) -> int:
        """Elements of all outputs together.

        Units: elements.
        """
        return sum(spec.size for spec in self.out)

    def tensor(self, index: int) -> TensorSpec:
        """Return the tensor at a position.

        Raises:
            FormulaError: there is none.
        """
        value = self.args[index] if index < len(self.args) else None
        if isinstance(value, TensorSpec):
            return value
        msg = f"argument {index} is {value}, not a tensor"
        raise FormulaError(msg, where=self.op)

    def tensor_list(self, index: int) -> tuple[TensorSpec, ...]:
        """Return the tensors of a list argument; FormulaError where there is none."""
        value = self.args[index] if index < len(self.args) else None
        if isinstance(value, tuple) and all(isinstance(item, TensorSpec) for item in value):
            return tuple(item for item in value if isinstance(item, TensorSpec))
        msg = f"argument {index} is not a list of tensors"
        raise FormulaError(msg, where=self.op)

    def arg(self, index: int, default: Arg = None) -> Arg:
        """Return the argument at a position, or the schema's default where it was left out."""
        return self.args[index] if index < len(self.args) else default

    def count_given(self, *places: int) -> int:
        """Return how many of the arguments at these positions were given and are not None.

        Example:
            >>> OpCall.of("aten::layer_norm", (2, 3), [3], (3,), None).count_given(2, 3)
            1
        """
        return sum(self.arg(place) is not None for place in places)

    def option(self, name: str, default: Arg = None) -> Arg:
        """Return a keyword-only argument, or the schema's default where it was left out."""
        return dict(self.options).get(name, default)

    def refuse(self, what: str) -> NoReturn:
        """Say that a formula does not understand this call: it is left uncounted.

        Raises:
            FormulaError: always.
        """
        raise FormulaError(what, where=self.op)

    def walk(self, length: int) -> range:
        """Return the places of a size that this call dictates, for a formula that looks at each of them.

        A call read from a ledger may claim any size; only where the walk is short is it taken.

        Raises:
            FormulaError: there are more than `LONGEST_WALK`.

        Example:
            >>> list(OpCall.of("aten::f").walk(3))
            [0, 1, 2]
        """
        return range(length) if length <= LONGEST_WALK else self.refuse(f"{length} places are too long to walk")

    def to_wire(self) -> dict[str, wire.Wire]:
        """Return the call as ledgers keep it."""
        return {
            "op": self.op,
            "args": [_print_arg(arg) for arg in self.args],
            "options": {name: _print_arg(value) for name, value in self.options},
            "out": [str(spec) for spec in self.out],
            "precision": self.precision,
        }

    @classmethod
    def from_wire(cls, value: wire.Wire) -> Self:
        """Return the call that this object holds; MalformedError where it holds none."""
        fields = wire.parse_object(value, name="operator call")
        options = wire.parse_object(fields.get("options"), name="options")
        outs = [_parse_arg(item) for item in wire.parse_list(fields.get("out"), name="out")]
        if not all(isinstance(item, TensorSpec) for item in outs):
            msg = "an output of an operator call is not a tensor"
            raise MalformedError(msg)
        return cls(
            op=wire.parse_text(fields.get("op"), name="op"),
            args=tuple(_parse_arg(item) for item in wire.parse_list(fields.get("args"), name="args")),
            options=tuple(sorted((name, _parse_arg(item)) for name, item in options.items())),
            out=tuple(item for item in outs if isinstance(item, TensorSpec)),
            precision=wire.parse_text(fields.get("precision"), name="precision"),
        )


def derive_precision(tensors: Sequence[TensorSpec]) -> str:
    """Return the precision of arithmetic on these operands: the widest float, else complex, else integer type.

    Operands of two 8-bit formats are written as a pair, as the contract asks. Without a tensor: `none`.
    """
    dtypes = list(dict.fromkeys(spec.dtype for spec in tensors))
    for family in (COMPLEX, FLOATS):
        found = [dtype for dtype in dtypes if dtype in family]
        if len(found) > 1 and all(dtype.startswith("fp8") for dtype in found):
            return "*".join(found)
        if found:
            return max(found, key=_width)
    numbers = [dtype for dtype in dtypes if dtype != "bool"]
    return max(numbers, key=_width) if numbers else (dtypes[0] if dtypes else "none")


def _computed_in(tensors: Sequence[TensorSpec], out: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """Return the tensors whose dtypes say what a call computes in: complex or float as soon as they come out."""
    if any(spec.dtype in FLOATS | COMPLEX for spec in tensors):
        return (*tensors, *(spec for spec in out if spec.dtype in COMPLEX))
    return [spec for spec in out if spec.dtype in FLOATS | COMPLEX] or tensors or out


def is_integer(precision: str) -> bool:
    """Say whether arithmetic of this precision is on integers (or booleans)."""
    return precision.startswith(("int", "uint", "bool", "qint", "quint"))


def is_exactly(arg: Arg, value: float) -> bool:
    """Say whether a scalar argument surely has this value; `*` is no value in particular."""
    return isinstance(arg, (int, float)) and arg == value


def parse_sizes(arg: Arg) -> tuple[int, ...]:
    """Return the ints of a size argument: `8`, or `[8, 8]`.

    Raises:
        TypeError: neither an int nor a list of ints.
    """
    items = arg if isinstance(arg, tuple) else (arg,)
    sizes = tuple(item for item in items if isinstance(item, int) and not isinstance(item, bool))
    if len(sizes) != len(items):
        msg = f"{arg} is not a list of sizes"
        raise TypeError(msg)
    return sizes


def broadcast_size(*specs: TensorSpec) -> int:
    """Return the elements of the shape that tensors broadcast to; that they do is not checked.

    Example:
        >>> broadcast_size(TensorSpec((4, 1, 3)), TensorSpec((2, 1)))
        24
    """
    rank = max((len(spec.shape) for spec in specs), default=0)
    padded = [(1,) * (rank - len(spec.shape)) + spec.shape for spec in specs]
    return math.prod(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def _split(numbers: str | None) -> tuple[int, ...]:
    return tuple(map(int, numbers.split(","))) if numbers else ()


def _width(dtype: str) -> int:
    digits = re.search(r"[0-9]+", dtype)
    return int(digits.group()) if digits else 0


def _by_hand(arg: "Sequence[int] | Arg", dtype: str) -> Arg:
    if isinstance(arg, tuple) and all(isinstance(item, int) and not isinstance(item, bool) for item in arg):
        return TensorSpec(tuple(item for item in arg if isinstance(item, int)), dtype)
    if isinstance(arg, list):
        return tuple(_by_hand(item, dtype) for item in arg)
    return arg  # type: ignore[return-value]  # what is left of a Sequence[int] was taken above


def _gather(args: Sequence[Arg], found: list[TensorSpec]) -> None:
    for arg in args:
        if isinstance(arg, TensorSpec):
            found.append(arg)
        elif isinstance(arg, tuple):
            _gather(arg, found)


def _print_arg(arg: Arg) -> wire.Wire:
    if arg is None or isinstance(arg, bool):
        return arg
    if isinstance(arg, str):
        return f"'{arg}"
    if isinstance(arg, tuple):
        return [_print_arg(item) for item in arg]
    if isinstance(arg, float):
        return repr(arg)
    return str(arg)


def _parse_arg(value: wire.Wire) -> Arg:
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return tuple(_parse_arg(item) for item in wire.parse_list(value, name="argument"))
    if value.startswith("'"):
        return value[1:]
    if value == "*":
        return AnyNumber()
    if _INT.match(value):
        return int(value)
    if _FLOAT.match(value):
        return float(value)
    found = _TENSOR.match(value)
    if found:
        dtype, sizes, stored, values = found.groups()
        shape = _split(sizes)
        if max((*shape, math.prod(shape))) >= MOST_ELEMENTS:
            msg = f"{value[:60]!r} has more elements than a tensor can have"
            raise MalformedError(msg)
        return TensorSpec(
            shape, dtype, None if stored is None else int(stored), None if values is None else _split(values)
        )
    msg = f"{value[:60]!r} is no argument of an operator call"
    raise MalformedError(msg)
