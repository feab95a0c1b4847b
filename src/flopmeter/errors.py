"""Every exception that flopmeter raises on purpose, and nothing else.

Each says what was wrong, where, and, if a person can act, what to do.
This file imports nothing of ours, prints nothing and exits nowhere.

FlopmeterError
├── MeterError
│   ├── FormulaError
│   ├── UncountedOpError
│   └── SensorError
├── LedgerError
│   ├── LedgerMissingError
│   ├── LedgerLockedError
│   ├── LedgerTornError
│   ├── LedgerBrokenError
│   └── LedgerUnreadableError
├── UnknownNameError
│   ├── UnknownDeviceError
│   ├── UnknownRegimeError
│   └── UnknownSignerError
├── SigningError
├── VerificationError
│   ├── SignatureError
│   ├── PolicyError
│   └── MismatchError
├── CannotVerifyError
│   ├── MalformedError
│   └── UnsupportedError
└── MissingExtraError
"""


class FlopmeterError(Exception):
    """The root of every error that is ours.

    Attributes:
        what: one sentence, with the two values that disagree where there are two.
        where: file and line, operator or device; empty when there is none.
        hint: what a person can do; empty when nothing.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        """Keep the three parts apart so that a command can print them as it likes."""
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        """Return the three parts as one line."""
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line} ({self.hint})" if self.hint else line

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling with the keyword parts (errors cross process borders in tests and launchers)."""
        return (_rebuild, (type(self), self.what, self.where, self.hint))


def _rebuild(kind: type[FlopmeterError], what: str, where: str, hint: str) -> FlopmeterError:
    return kind(what, where=where, hint=hint)


class MeterError(FlopmeterError):
    """Something failed while metering; the meter records a gap and goes on, unless `strict=True`."""


class FormulaError(MeterError):
    """A formula refused its shapes."""


class UncountedOpError(MeterError):
    """Strict mode met an operator without a formula."""


class SensorError(MeterError):
    """A device, its library or torch did not answer as expected."""


class LedgerError(FlopmeterError):
    """A ledger could not be written or read."""


class LedgerMissingError(LedgerError):
    """There is no ledger where one was named."""


class LedgerLockedError(LedgerError):
    """Another process, or another meter in this one, is writing this ledger."""


class LedgerTornError(LedgerError):
    """The last line is incomplete; the run can go on in a new segment, which names what was cut."""


class LedgerBrokenError(LedgerError):
    """A line, a digest or a total does not follow from what stands before it."""


class LedgerUnreadableError(LedgerError):
    """These bytes are no ledger, or none of a version this build reads."""


class UnknownNameError(FlopmeterError):
    """A name that we will not guess at."""


class UnknownDeviceError(UnknownNameError):
    """No peak is known for this device."""


class UnknownRegimeError(UnknownNameError):
    """No regime has this id."""


class UnknownSignerError(UnknownNameError):
    """No signer is known for this URI scheme."""


class SigningError(FlopmeterError):
    """A key could not be read, or a signature could not be made."""


class VerificationError(FlopmeterError):
    """Checked, and the answer is no."""


class SignatureError(VerificationError):
    """No trusted key made this signature."""


class PolicyError(VerificationError):
    """Signed, but not by whom, how often or how recently the policy asks."""


class MismatchError(VerificationError):
    """The signed claim is not what the ledger, the subject or its own arithmetic says."""


class CannotVerifyError(FlopmeterError):
    """The question could not be answered."""


class MalformedError(CannotVerifyError):
    """These bytes are not what they should be."""


class UnsupportedError(CannotVerifyError):
    """A version, key type or predicate that this build does not read."""


class MissingExtraError(FlopmeterError, ImportError):
    """An optional package is not installed; the message is the command that installs it."""
