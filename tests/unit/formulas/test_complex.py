"""Arithmetic on complex numbers: each form run on numbers that count their operations, and products added up."""

import cmath
import math

import pytest

from flopmeter.errors import FormulaError
from flopmeter.formulas.book import FormulaBook
from flopmeter.formulas.call import AnyNumber, OpCall, TensorSpec
from flopmeter.formulas.complex import FORMULAS, IN_LISTS, RATES
from flopmeter.formulas.cost import Cost

ANY, BOOK = AnyNumber(), FormulaBook.standard()
Z, N = (2, 3), 6
LISTS = [(2, 3), (4,)]


class Real:
    """A real number that counts what is done with it; one count for all."""

    count = 0

    def __init__(self, value):
        self.value = float(value)

    def _step(self, value):
        Real.count += 1
        return Real(value)

    def __add__(self, other):
        return self._step(self.value + value_of(other))

    def __sub__(self, other):
        return self._step(self.value - value_of(other))

    def __mul__(self, other):
        return self._step(self.value * value_of(other))

    def __truediv__(self, other):
        return self._step(self.value / value_of(other))

    def __neg__(self):
        return self._step(-self.value)

    def __abs__(self):
        return self._step(abs(self.value))

    def __getattr__(self, name):
        """An elementary function."""
        return lambda *others: self._step(getattr(math, name)(self.value, *map(value_of, others)))


def value_of(number):
    return number.value if isinstance(number, Real) else number


class Pair:
    """A complex number as two real ones, with the forms of the document."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __add__(self, other):
        return Pair(self.x + other.x, self.y + other.y)

    def __sub__(self, other):
        return Pair(self.x - other.x, self.y - other.y)

    def __mul__(self, other):
        return Pair(self.x * other.x - self.y * other.y, self.x * other.y + self.y * other.x)

    def __truediv__(self, other):
        square = other.x * other.x + other.y * other.y
        top = Pair(self.x * other.x + self.y * other.y, self.y * other.x - self.x * other.y)
        return Pair(top.x / square, top.y / square)

    def conj(self):
        return Pair(self.x, -self.y)

    def times_i(self):
        return Pair(-self.y, self.x)

    def over_i(self):
        return Pair(self.y, -self.x)

    def scaled(self, factor):
        return Pair(self.x * factor, self.y * factor)

    def shifted(self, by):
        return Pair(self.x + by, self.y)

    def turned(self):
        size = self.modulus()
        return Pair(self.x / size, self.y / size)

    def sin(self):
        return self.times_i().sinh().over_i()

    def sin_over(self):
        return self.sin() / self

    def modulus(self):
        return (self.x * self.x + self.y * self.y).sqrt()

    def angle(self):
        return self.y.atan2(self.x)

    def reciprocal(self):
        square = self.x * self.x + self.y * self.y
        return Pair(self.x / square, -self.y / square)

    def exp(self):
        size = self.x.exp()
        return Pair(size * self.y.cos(), size * self.y.sin())

    def log(self):
        return Pair(self.modulus().log(), self.angle())

    def root(self, power):
        size, angle = self.modulus().pow(power), self.angle() * power
        return Pair(size * angle.cos(), size * angle.sin())

    def sinh(self):
        return Pair(self.x.sinh() * self.y.cos(), self.x.cosh() * self.y.sin())

    def cosh(self):
        return Pair(self.x.cosh() * self.y.cos(), self.x.sinh() * self.y.sin())

    def tanh(self):
        x, y = self.x * 2, self.y * 2
        divisor = x.cosh() + y.cos()
        return Pair(x.sinh() / divisor, y.sin() / divisor)

    def asinh(self):
        return (self + (self * self + ONE).root(0.5)).log()

    def acosh(self):
        return (self + (self * self - ONE).root(0.5)).log()

    def atanh(self):
        above, below = self.shifted(1), Pair(Real(1) - self.x, -self.y)
        return (above.log() - below.log()) * HALF

    def acos(self):
        found = self.acosh()
        return Pair(abs(found.y), abs(found.x) * (1 if self.y.value < 0 else -1))

    def sigmoid(self):
        return (Pair(-self.x, -self.y).exp() + ONE).reciprocal()


ONE, HALF = Pair(Real(1), Real(0)), Pair(Real(0.5), Real(0))
FORMS = {
    "neg": lambda z, w: Pair(-z.x, -z.y),
    "conj_physical": lambda z, w: z.conj(),
    "_conj_physical": lambda z, w: z.conj(),
    "abs": lambda z, w: z.modulus(),
    "angle": lambda z, w: z.angle(),
    "sgn": lambda z, w: z.turned(),
    "polar": lambda z, w: Pair(z.x * z.y.cos(), z.x * z.y.sin()),
    "mul": lambda z, w: z * w,
    "div": lambda z, w: z / w,
    "reciprocal": lambda z, w: z.reciprocal(),
    "exp": lambda z, w: z.exp(),
    "exp2": lambda z, w: z.scaled(math.log(2)).exp(),
    "expm1": lambda z, w: z.exp().shifted(-1),
    "log": lambda z, w: z.log(),
    "log1p": lambda z, w: z.shifted(1).log(),
    "log2": lambda z, w: z.log().scaled(1 / math.log(2)),
    "log10": lambda z, w: z.log().scaled(1 / math.log(10)),
    "sqrt": lambda z, w: z.root(0.5),
    "rsqrt": lambda z, w: z.root(-0.5),
    "sinh": lambda z, w: z.sinh(),
    "cosh": lambda z, w: z.cosh(),
    "tanh": lambda z, w: z.tanh(),
    "sin": lambda z, w: z.sin(),
    "cos": lambda z, w: z.times_i().cosh(),
    "tan": lambda z, w: z.times_i().tanh().over_i(),
    "asinh": lambda z, w: z.asinh(),
    "acosh": lambda z, w: z.acosh(),
    "atanh": lambda z, w: z.atanh(),
    "asin": lambda z, w: z.times_i().asinh().over_i(),
    "acos": lambda z, w: z.acos(),
    "atan": lambda z, w: z.times_i().atanh().over_i(),
    "sigmoid": lambda z, w: z.sigmoid(),
    "silu": lambda z, w: z * z.sigmoid(),
    "sinc": lambda z, w: z.scaled(math.pi).sin_over(),
    "lerp": lambda z, w: z + w * (w - z),
    "ldexp": lambda z, w: z * (w * Pair(Real(2), Real(0)).log()).exp(),
    "logaddexp": lambda z, w: w + (z - w).exp().shifted(1).log(),
    "sigmoid_backward": lambda z, w: z * (w * (ONE - w)).conj(),
    "tanh_backward": lambda z, w: z * (ONE - w * w).conj(),
}


def flop_of(op, *args, **options):
    found = FORMULAS[f"complex::aten.{op}"][1](OpCall.of(f"aten::{op}", *args, dtype="complex64", **options))
    return found.flop if isinstance(found, Cost) else found


def parts_of(op, *args, **options):
    found = FORMULAS[f"complex::aten.{op}"][1](OpCall.of(f"aten::{op}", *args, dtype="complex64", **options))
    return {part.kind: part.flop for part in found.parts if part.flop}


@pytest.mark.parametrize("name", RATES)
def test_a_rate_is_the_operations_of_its_form(name):
    """Else the form on the page is one thing and the figure another."""
    Real.count = 0
    FORMS[name](Pair(Real(0.7), Real(0.3)), Pair(Real(0.2), Real(0.9)))
    assert Real.count == RATES[name]
    assert flop_of(name, Z, Z, out=[Z]) == RATES[name] * N
    primitive = FORMULAS["complex::prims.conj_physical"][1]
    assert primitive(OpCall.of("prims::conj_physical", Z, dtype="complex64", out=[Z])) == N


@pytest.mark.parametrize("name", [name for name in RATES if hasattr(cmath, name) and name != "polar"])
def test_a_form_gives_the_right_number(name):
    """Else it is the form of something else."""
    found = FORMS[name](Pair(Real(0.7), Real(-0.3)), None)
    assert complex(found.x.value, found.y.value) == pytest.approx(getattr(cmath, name)(0.7 - 0.3j))


@pytest.mark.parametrize("name", IN_LISTS)
def test_a_list_costs_what_its_tensors_cost(name):
    assert flop_of(f"_foreach_{name}", LISTS, LISTS, out=LISTS) == RATES[name] * 10
    in_place = OpCall.of(f"aten::_foreach_{name}_", LISTS, LISTS, dtype="complex64")
    assert BOOK.cost(in_place).flop == RATES[name] * 10


def test_a_real_operand_is_promoted():
    """Else the same product costs less when one side is stored as a real tensor, and torch does it all the same."""
    real, whole = TensorSpec((2, 3), "fp32"), TensorSpec((2, 3), "complex64")
    for call in (
        OpCall(op="aten::mul", args=(real, whole), out=(whole,)),
        OpCall(op="aten::mul", args=(whole, 2), out=(whole,)),
        OpCall(op="aten::mul_", args=(whole, ANY), out=(whole,)),
        OpCall(op="aten::mul", args=(real, None), out=(whole,)),
    ):
        assert BOOK.cost(call).flop == 6 * N


def test_a_real_result_of_complex_numbers_is_complex_work():
    modulus = OpCall(op="aten::abs", args=(TensorSpec(Z, "complex64"),), out=(TensorSpec(Z, "fp32"),))
    assert modulus.precision == "complex64"
    assert BOOK.cost(modulus).flop == 4 * N


def test_real_numbers_that_make_complex_ones_are_complex_work():
    call = OpCall(op="aten::polar", args=(TensorSpec(Z), TensorSpec(Z)), out=(TensorSpec(Z, "complex64"),))
    assert BOOK.cost(call).flop == 4 * N


def test_the_sign_of_a_complex_number_is_a_division_and_not_a_compare():
    """Else gradients of moduli are free."""
    assert BOOK.cost(OpCall.of("aten::sgn", Z, dtype="complex64", out=[Z])).flop == 6 * N
    assert BOOK.cost(OpCall.of("aten::sgn", Z, out=[Z])).flop == 0


@pytest.mark.parametrize("op", ["add", "sub", "rsub"])
def test_a_factor_of_a_sum_is_a_complex_product(op):
    assert flop_of(op, Z, Z, out=[Z]) == 2 * N
    assert flop_of(op, Z, Z, alpha=1, out=[Z]) == 2 * N
    assert flop_of(op, Z, Z, alpha=-1, out=[Z]) == (2 + 6) * N
    assert flop_of(op, Z, Z, alpha=None, out=[Z]) == (2 + 6) * N  # a complex factor
    if op != "rsub":
        assert flop_of(f"_foreach_{op}", LISTS, LISTS, out=LISTS) == 2 * 10
        assert flop_of(f"_foreach_{op}", LISTS, LISTS, alpha=ANY, out=LISTS) == 8 * 10
        assert flop_of(f"_foreach_{op}", LISTS, [ANY, ANY], out=LISTS) == 2 * 10
    else:
        assert flop_of(op, Z, 1, 2, out=[Z]) == (2 + 6) * N


def test_multiply_adds_have_a_value_each():
    add, multiply, divide = 2, 6, 11
    assert flop_of("addcmul", Z, Z, Z, out=[Z]) == (multiply + add) * N
    assert flop_of("addcmul", Z, Z, Z, value=ANY, out=[Z]) == (2 * multiply + add) * N
    assert flop_of("addcdiv", Z, Z, Z, value=1, out=[Z]) == (divide + add) * N
    lists = (LISTS, LISTS, LISTS)
    assert flop_of("_foreach_addcdiv", *lists, [0.5, 1.0], out=LISTS) == (13 + 6) * 6 + 13 * 4
    assert flop_of("_foreach_addcmul", *lists, ANY, out=LISTS) == (8 + 6) * 10
    scalars = TensorSpec((2,))
    assert flop_of("_foreach_addcmul", *lists, scalars, out=LISTS) == (8 + 6) * 10


def test_powers_are_products_and_roots_where_they_can_be():
    logarithm, product, exponential = 6, 6, 5
    for exponent, rate in [(0, 0), (1, 0), (2, product), (3, 2 * product), (0.5, 11), (-0.5, 11), (-1, 6)]:
        assert flop_of("pow", Z, exponent, out=[Z]) == rate * N
    for exponent in (ANY, None, TensorSpec(Z)):
        assert flop_of("pow", Z, exponent, out=[Z]) == (logarithm + product + exponential) * N
    assert flop_of("pow", 2, Z, out=[Z]) == 17 * N
    assert flop_of("_foreach_pow", LISTS, [2, ANY], out=LISTS) == 6 * 6 + 17 * 4
    assert flop_of("_foreach_pow", LISTS, 3, out=LISTS) == 12 * 10
    assert flop_of("_foreach_pow", 2, LISTS, out=LISTS) == 17 * 10


@pytest.mark.parametrize(
    ("op", "args", "terms"),
    [
        ("mm", [(2, 3), (3, 5)], 2 * 3 * 5),
        ("bmm", [(4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        ("mv", [(2, 3), (3,)], 2 * 3),
        ("dot", [(7,), (7,)], 7),
        ("vdot", [(7,), (7,)], 7),
        ("mm", [(4, 0), (0, 5)], 0),
        ("_foreach_mm", [[(2, 3), (1, 4)], [(3, 5), (4, 2)]], 30 + 8),
    ],
)
def test_a_product_costs_a_multiply_and_an_add_for_each_term(op, args, terms):
    assert parts_of(op, *args) == ({"matmul": terms * (4 + 2 + 2)} if terms else {})


@pytest.mark.parametrize(
    ("options", "bias"),
    [
        ({}, 2 * 10),
        ({"beta": 0}, 0),
        ({"beta": ANY}, 2 * 10 + 6 * 5),
        ({"alpha": ANY}, 2 * 10 + 6 * 10),
        ({"beta": 0.5, "alpha": None}, 2 * 10 + 6 * 5 + 6 * 10),
    ],
)
def test_a_bias_is_added_and_its_factors_are_complex_products(options, bias):
    found = parts_of("addmm", (5,), (2, 3), (3, 5), **options)
    assert found == {"matmul": 8 * 30} | ({"pointwise": bias} if bias else {})


def test_fused_products_of_batches_vectors_and_outer_products():
    assert parts_of("addmm", (5,), (2, 0), (0, 5)) == {"pointwise": 20}
    assert parts_of("addmv", (2,), (2, 3), (3,)) == {"matmul": 48, "pointwise": 4}
    assert parts_of("baddbmm", (4, 1, 5), (4, 2, 3), (4, 3, 5), beta=0.5) == {
        "matmul": 8 * 120,
        "pointwise": 2 * 40 + 6 * 20,
    }
    assert parts_of("addbmm", (2, 5), (4, 2, 3), (4, 3, 5)) == {
        "matmul": 8 * 120,
        "pointwise": 2 * 10,
        "reduction": 2 * 3 * 10,
    }
    assert flop_of("addr", (2, 3), (2,), (3,)) == (6 + 2) * N
    assert flop_of("addr", (3,), (2,), (3,), beta=0.5, alpha=ANY) == (6 + 6 + 2) * N + 6 * 3
    assert flop_of("addr", (2, 3), (2,), (3,), beta=0) == 6 * N


@pytest.mark.parametrize(
    "call",
    [
        OpCall.of("aten::mm", (2, 3), (4, 5), dtype="complex64"),
        OpCall.of("aten::mm", (2, 3, 1), (3, 5), dtype="complex64"),
        OpCall.of("aten::bmm", (4, 2, 3), (5, 3, 5), dtype="complex64"),
        OpCall.of("aten::dot", (2,), (3,), dtype="complex64"),
        OpCall.of("aten::_foreach_mm", [(2, 3)], [(3, 2), (1, 1)], dtype="complex64"),
        OpCall.of("aten::mul", (2, 3), (2, 3), dtype="complex64"),
        OpCall.of("aten::addmm", (5,), (2, 3), dtype="complex64"),
    ],
)
def test_calls_that_do_not_fit_are_refused(call):
    """Else a call that was read wrongly gets a figure all the same."""
    with pytest.raises(FormulaError):
        BOOK.cost(call)


def test_complex_work_without_a_row_is_uncounted():
    """Else a price for real numbers is put on complex ones."""
    assert BOOK.cost(OpCall.of("aten::erf", Z, dtype="complex64", out=[Z])) is None
    assert BOOK.cost(OpCall.of("aten::clone", Z, dtype="complex64", out=[Z])).flop == 0
