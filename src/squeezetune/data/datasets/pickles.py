"""Plain values and arrays in a pickle, read without running anything.

A pickle is a program that builds values. Its instructions are listed by the standard library's
`pickletools`, which runs none of them, and those that make plain values are followed here. What the
program would import or call is only written down as a `Call`, and never looked up. Instructions:
`pickletools.opcodes`, and PEP 307 for protocol 2.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_ARRAY_MAKERS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_BYTE_TYPES = (b"u1", "u1", b"|u1", "|u1")
_MAPPING = "collections OrderedDict"
_MARK = object()


class PickleError(ValueError):
    """A pickle is damaged, or builds something else than plain values and arrays."""


@dataclass(frozen=True, eq=False)
class Name:
    """What a pickle calls something outside of it by, such as "numpy dtype"; it is not looked
    up.
    """

    name: str


@dataclass(frozen=True, eq=False)
class PersistentId:
    """What a pickle says of a value that lies beside it."""

    value: Any


@dataclass(eq=False)
class Call:
    """What a pickle would call, with which arguments, and the state that the result would get; it
    is not called.
    """

    target: Any
    arguments: Any
    state: Any = None


@dataclass
class _Machine:
    """The stack that instructions work on, and what they have put aside."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self, count: int) -> list[Any]:
        """Take so many values from the top."""
        if len(self.stack) < count:
            raise PickleError("it takes what it has not put down")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_to_mark(self) -> list[Any]:
        """Take all values above the latest mark, and the mark."""
        at = next(at for at in reversed(range(len(self.stack))) if self.stack[at] is _MARK)
        taken = self.stack[at + 1 :]
        del self.stack[at:]
        return taken

    def push(self, value: Any) -> None:
        """Put a value on top."""
        self.stack.append(value)

    def append(self, values: list[Any]) -> None:
        """Add values to the list on top."""
        _expect(self.stack[-1], list).extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        """Add keys and values, one behind the other, to the mapping on top."""
        _expect(self.stack[-1], dict).update(zip(pairs[::2], pairs[1::2], strict=True))

    def call(self, target: Any, arguments: Any) -> None:
        """Put down a call; one that makes an empty dictionary is as good as that."""
        is_mapping = isinstance(target, Name) and target.name == _MAPPING and arguments == ()
        self.push({} if is_mapping else Call(target, arguments))

    def build(self, state: Any) -> None:
        """Give a state to the call on top; what a dictionary would have besides is left out."""
        if not isinstance(self.stack[-1], dict):
            _expect(self.stack[-1], Call).state = state


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise PickleError(f"it treats a {type(value).__name__} as a {kind.__name__}")
    return value


def _push_text(machine: _Machine, text: Any) -> None:
    """Put down a string of Python 2, which is bytes; `pickletools` gives it as letters of one byte
    each.
    """
    machine.push(text.encode("latin-1"))


_PLAIN = (
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
)
_FOLLOW: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_PLAIN, _Machine.push),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _push_text),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, argument: None),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.push(_MARK),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(
        ("BINPUT", "LONG_BINPUT"), lambda machine, at: machine.memo.update({at: machine.stack[-1]})
    ),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.stack[-1]}),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, at: machine.push(machine.memo[at])),
    "GLOBAL": lambda machine, name: machine.push(Name(name)),
    "REDUCE": lambda machine, _: machine.call(*machine.pop(2)),
    "BINPERSID": lambda machine, _: machine.push(PersistentId(*machine.pop(1))),
    "BUILD": lambda machine, _: machine.build(*machine.pop(1)),
}


def read_pickle(payload: bytes | BinaryIO) -> Any:
    """Read the value that a pickle would build: plain values, and a `Call` for all that it would
    import and call. A file is read up to the pickle's end.

    Raises:
        PickleError: it is damaged, or has instructions that plain values and arrays do not need.

    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(payload):
            if opcode.name == "STOP":
                return machine.pop(1)[0]
            if opcode.name not in _FOLLOW:
                raise PickleError(
                    f"it has the instruction {opcode.name}, which no plain value needs"
                )
            _FOLLOW[opcode.name](machine, argument)
    except PickleError:
        raise
    except (ValueError, TypeError, LookupError, StopIteration) as error:
        raise PickleError(f"it is damaged: {error}") from error
    raise PickleError("it is damaged: it has no end")


def read_array(value: Any) -> NDArray[np.uint8]:
    """Make an array of bytes from the call by which a pickle would make it.

    Raises:
        PickleError: the value is nothing of the kind.

    """
    try:
        _, shape, kind, is_fortran, content = value.state
        if value.target.name not in _ARRAY_MAKERS or kind.arguments[0] not in _BYTE_TYPES:
            raise PickleError(f"its array would be made by {value.target.name}")
        array: NDArray[np.uint8] = np.frombuffer(content, np.uint8).reshape(
            shape, order="F" if is_fortran else "C"
        )
    except PickleError:
        raise
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise PickleError(f"it holds no array of bytes: {error}") from error
    return array
