"""RLBench's pickles as plain data: nothing that a file names is imported or called.

`pickle` runs what a file asks for, and even an unpickler that admits few names lets a file set
attributes, exhaust memory by claiming sizes, or end the process by hashing nested tuples. So the
instructions are interpreted here, only those that RLBench's files use, upon inert stand-ins.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from pickletools import genops
from typing import Any

from mirrorlib.errors import UserError
from mirrorlib_rlbench.standins import Array, DType, Name, Record, Refused, admitted, array

LARGEST = 32 * 2**20
"""Bytes of a file that are read at most; an observation has about 4 kB."""


def load_pickle(path: Path) -> Any:
    """The file's content: numbers, strings, bytes, lists, tuples, dicts with names as keys,
    `Array` and `Record`.

    Pickle protocols 0 to 5, numpy 1 and 2. Raises UserError with the path for a file that is
    missing, damaged or longer than 32 MiB, and for one that names anything but RLBench's Demo and
    Observation and what rebuilds numpy's arrays, with that name.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a file; expected a pickle of RLBench's")
        if status.st_size > LARGEST:
            raise UserError(f"{path}: {status.st_size} bytes; none of RLBench's has over {LARGEST}")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return _Machine().run(content)
    except Refused as refused:
        raise UserError(
            f"{path}: {refused}, so it is not read; do not open it with pickle: it may be malicious"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        reason = " ".join(ascii(str(error)).split())[:100]
        raise UserError(
            f"{path}: a damaged pickle ({type(error).__name__} {reason}); fetch it again"
        ) from error


class _Machine:
    """Executes the instructions of one pickle. A stack of values, a memo, and marks into the
    stack, as documented in the standard library's `pickletools`."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.room = 0

    def run(self, content: bytes) -> Any:
        stack, self.room = self.stack, len(content)
        argument: Any
        for opcode, argument, _ in genops(content):
            name = opcode.name
            if name in _VALUES:
                stack.append(argument)
            elif name == "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(self.memo[argument])
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                self.memo[argument] = stack[-1]
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name]())
            elif name in _TUPLES:
                stack.append(tuple(self.pop(_TUPLES[name])))
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise Refused(f"uses pickle's {name}, which no recording of RLBench's does")
        (result,) = stack
        return result

    def pop(self, count: int) -> list[Any]:
        """The uppermost values, the lowest first."""
        if count > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise ValueError("too few values")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def pop_mark(self) -> list[Any]:
        """The values above the last mark."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def name(self, argument: str) -> None:
        self.stack.append(admitted(*argument.split(" ", 1)))

    def name_of_stack(self, _: None) -> None:
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no string")
        self.stack.append(admitted(module, name))

    def instance(self, argument: str) -> None:
        self.name(argument)
        raise Refused("uses pickle's INST, which no recording of RLBench's does")

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("no list to append to")
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        self.stack[-1].update(_mapping(values))

    def call(self, _: None) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, Name) or function.rebuild is None:
            raise Refused(f"calls {getattr(function, 'name', type(function).__name__)!a}")
        made = function.rebuild(*arguments)
        if isinstance(made, bytes):
            self.room -= len(made)
            if self.room < 0:
                raise Refused("unfolds to more than it holds")
        self.stack.append(made)

    def create(self, _: None) -> None:
        kind, arguments = self.pop(2)
        if not isinstance(kind, Name) or not kind.record or arguments != ():
            raise Refused(f"makes a {getattr(kind, 'name', type(kind).__name__)!a}")
        self.stack.append(Record(kind.name))

    def build(self, _: None) -> None:
        (state,) = self.pop(1)
        target = self.stack[-1]
        if isinstance(target, Record):
            if not isinstance(state, dict):
                raise TypeError("attributes that are no dict")
            target.fields.update(state)
        elif isinstance(target, Array):
            _, shape, dtype, columns_first, content = state
            target.value = array(content, dtype, shape, "F" if columns_first else "C")
        elif isinstance(target, DType):
            target.build(*state[1:5])
        else:
            raise Refused(f"sets attributes of a {type(target).__name__}")


def _mapping(values: list[Any]) -> dict[str, Any]:
    keys = values[::2]
    if not all(isinstance(key, str) for key in keys):
        raise TypeError("a key that is no string")
    return dict(zip(keys, values[1::2], strict=True))


_VALUES = frozenset(
    (
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
        "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    )
)  # fmt: skip
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_mark()),
    "DICT": lambda machine, _: machine.stack.append(_mapping(machine.pop_mark())),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.update(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
    "GLOBAL": _Machine.name,
    "INST": _Machine.instance,
    "STACK_GLOBAL": _Machine.name_of_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.create,
    "BUILD": _Machine.build,
}
