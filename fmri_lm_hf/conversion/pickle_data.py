"""Read the data in a pickle without running it.

A pickle is a program for a small stack machine that builds objects by importing names and calling them. Here names stay
names: nothing is imported, and a "call" is looked up in a table of functions of this package that the caller gives. An
object of any other class is kept as an [`InertObject`], with its class name and attributes. A pickle that tries to call
anything else is refused.

Why not the libraries: `pickletools` parses opcodes (and does so here) but interprets none. `pickle.Unpickler` with
its own `find_class`, and torch's `weights_only` unpickler, hash keys, copy arguments and unpack tensors as the file
tells them to, so that a few hundred bytes can hold a process for hours (tests/conversion/test_hostile_checkpoints.py
has such files); torch's also refuses the OmegaConf and `argparse` objects that hold the settings of checkpoints.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_LONG_WORD = re.compile(r"\S{200,}")


def printable(text: str) -> str:
    """Make a text with names from a file safe for a terminal: escape control characters, cut long words."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return _LONG_WORD.sub(lambda word: f"{word[0][:160]}[{len(word[0]) - 160} more]", shown)


class CheckpointError(ValueError):
    """A checkpoint file that cannot be read."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint whose pickle tries to call something that does not merely carry data."""


@dataclass(frozen=True)
class GlobalName:
    """The name of a class or function that the pickle refers to, in place of the class or function."""

    name: str


@dataclass(eq=False, repr=False)
class InertObject:
    """An object whose class was not imported: its class name and its data.

    Attributes
    ----------
    class_name : str
        Full name of its class.
    arguments : tuple
        Arguments of its constructor.
    state : object
        Its attributes, in most cases a dict; None when it has none.
    items : list
        Elements, or (key, value) pairs, of an object that is a container.
    """

    class_name: str
    arguments: tuple = ()
    state: Any = None
    items: list = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<inert {self.class_name}>"


# Opcodes that push their own argument, and those that push a fresh constant.
# fmt: off
_VALUES = frozenset([
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
])
# fmt: on
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_SCALARS = (str, bytes, int, float, bool, type(None))
_MARK = object()
# Python hashes integers from this size on modulo a prime, and tuples without a secret: a file can choose keys that
# collide, and collisions make the work of a dictionary quadratic.
_FIRST_COLLIDING_INTEGER = 2**61 - 1
_MAX_TUPLE_KEYS = 1000
_MAX_TUPLE_KEY_LENGTH = 8


def checked_key(key: Any) -> Any:
    """Return a key of a dict; refuse it unless it is a scalar whose hash a file cannot choose."""
    if not isinstance(key, (*_SCALARS, GlobalName)):
        raise CheckpointError(f"The pickle uses a {type(key).__name__} as a key, which no checkpoint needs.")
    if isinstance(key, int) and abs(key) >= _FIRST_COLLIDING_INTEGER:
        raise CheckpointError(
            f"The pickle uses an integer of {key.bit_length()} bits as a key, which no checkpoint needs."
        )
    return key


class PickleInterpreter:
    """Interpreter of one pickle.

    Parameters
    ----------
    calls : mapping of str to callable
        Full name of what a pickle may "call" -> the function that is called instead. It gets the arguments of the call
        and must only build data from them.
    inert_prefixes : iterable of str
        Objects whose class name begins like this may be "called" too, and become an [`InertObject`].
    persistent_load : callable
        Turns the persistent id of an object stored outside the pickle into that object.

    Attributes
    ----------
    inert_classes : set of str
        Names of the classes whose objects were kept as inert data.
    """

    def __init__(
        self,
        calls: Mapping[str, Callable[..., Any]],
        inert_prefixes: Iterable[str],
        persistent_load: Callable[[Any], Any],
    ):
        self._calls = calls
        self._inert_prefixes = tuple(inert_prefixes)
        self._persistent_load = persistent_load
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._protocol = 0
        self._n_tuple_keys = 0
        self._copies_left = 0
        self.inert_classes: set[str] = set()

    def read(self, data: bytes) -> Any:
        """Return the object that the pickle describes: plain containers, scalars and what `calls` return."""
        position: int | None = 0
        # An honest file copies each of its objects once, and repeats by reference. A hostile one passes a long list as
        # an argument a thousand times, at two bytes each, and fills the memory.
        self._copies_left = 2 * len(data) + 1000
        try:
            for opcode, argument, position in pickletools.genops(data):  # noqa: B007  (for the error below)
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except CheckpointError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"The pickle is damaged near byte {position} ({error}).") from error
        raise CheckpointError("The pickle is damaged: it ends without its STOP opcode.")

    def _step(self, opcode: str, argument: Any) -> None:
        stack, memo = self._stack, self._memo
        if opcode in _VALUES:
            stack.append(argument)
            return
        if opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode]())
            return
        match opcode:
            case "PROTO":
                self._protocol = argument
            case "FRAME":
                pass  # only tells a reader of streams how much to read ahead
            case "MARK":
                stack.append(_MARK)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._pop_to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            # containers
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(opcode[-1])
                stack[-length:] = [tuple(stack[-length:])]
            case "LIST":
                stack.append(self._pop_to_mark())
            case "DICT":
                items = self._pop_to_mark()
                stack.append({})
                self._set_items(items)
            case "FROZENSET":
                stack.append(frozenset(map(self._key, self._pop_to_mark())))
            case "APPEND":
                self._add([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._add(self._pop_to_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            # names, and what would be calls
            case "GLOBAL":
                stack.append(self._global(*argument.partition(" ")[::2]))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self._global(module, name))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            case "INST":
                function = self._global(*argument.partition(" ")[::2])
                stack.append(self._call(function, tuple(self._pop_to_mark())))
            case "OBJ":
                function, *arguments = self._pop_to_mark()
                stack.append(self._call(function, tuple(arguments)))
            case "NEWOBJ":
                arguments, cls = stack.pop(), stack.pop()
                stack.append(self._make_inert(cls, arguments))
            case "NEWOBJ_EX":
                keywords, arguments, cls = stack.pop(), stack.pop(), stack.pop()
                self._check_arguments(arguments)
                stack.append(self._make_inert(cls, (*arguments, keywords)))
            case "BUILD":
                self._set_state(stack.pop())
            case "PERSID":
                stack.append(self._persistent_load(argument))
            case "BINPERSID":
                stack.append(self._persistent_load(stack.pop()))
            case _:
                raise CheckpointError(f"The pickle uses the opcode {opcode}, which no checkpoint needs.")

    def _pop_to_mark(self) -> list[Any]:
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _key(self, key: Any) -> Any:
        """Return a key of a container, which is a scalar or one of few flat and short tuples; refuse others."""
        if type(key) is not tuple:
            return checked_key(key)
        self._n_tuple_keys += 1
        if self._n_tuple_keys > _MAX_TUPLE_KEYS or len(key) > _MAX_TUPLE_KEY_LENGTH:
            raise CheckpointError("The pickle uses many or long tuples as keys, which no checkpoint needs.")
        for part in key:
            checked_key(part)
        return key

    def _set_items(self, items: list[Any]) -> None:
        """Set keys and values, which alternate in `items`, of the object on top of the stack."""
        target, pairs = self._stack[-1], list(zip(items[::2], items[1::2], strict=True))
        if isinstance(target, InertObject):
            target.items.extend(pairs)
        elif type(target) is dict:
            target.update((self._key(key), value) for key, value in pairs)
        else:
            raise CheckpointError(f"The pickle is damaged: it sets items of {type(target).__name__}.")

    def _add(self, items: list[Any]) -> None:
        """Add elements to the object on top of the stack."""
        target = self._stack[-1]
        if isinstance(target, InertObject):
            target.items.extend(items)
        elif type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(map(self._key, items))
        else:
            raise CheckpointError(f"The pickle is damaged: it adds elements to {type(target).__name__}.")

    def _set_state(self, state: Any) -> None:
        """Set the attributes of the object on top of the stack; those of a dict (`_metadata`) are dropped."""
        target = self._stack[-1]
        if isinstance(target, InertObject):
            target.state = state
        elif type(target) is not dict:
            raise CheckpointError(f"The pickle is damaged: it sets attributes of {type(target).__name__}.")

    def _global(self, module: Any, name: Any) -> GlobalName:
        if type(module) is not str or type(name) is not str:
            raise CheckpointError(
                f"The pickle is damaged: it names a class by a {type(module).__name__} and a {type(name).__name__}."
            )
        if self._protocol < 3:  # which writes the names of Python 2, such as `__builtin__` for `builtins`
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        return GlobalName(f"{module}.{name}")

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, GlobalName):
            raise UnsafeCheckpointError(f"Refused: the pickle tries to call a {type(function).__name__}.")
        self._check_arguments(arguments)
        if function.name in self._calls:
            return self._calls[function.name](*arguments)
        if function.name.startswith(self._inert_prefixes):
            return self._make_inert(function, arguments)
        raise UnsafeCheckpointError(
            f"Refused: the pickle tries to call `{function.name}`, which does not merely carry data. Nothing was "
            "run. Do not open this file with `torch.load(..., weights_only=False)`, which would run it."
        )

    def _make_inert(self, cls: Any, arguments: Any) -> InertObject:
        if not isinstance(cls, GlobalName):
            raise UnsafeCheckpointError(f"Refused: the pickle makes an object of a {type(cls).__name__}.")
        self._check_arguments(arguments)
        self.inert_classes.add(cls.name)
        return InertObject(cls.name, arguments)

    def _check_arguments(self, arguments: Any) -> None:
        """Refuse anything but a tuple (`*` on a tensor runs through all its values), and too many copies."""
        if type(arguments) is not tuple:
            raise CheckpointError(
                f"The pickle is damaged: it calls with a {type(arguments).__name__}, expected a tuple."
            )
        sized = (value for value in (*arguments, arguments) if isinstance(value, (str, bytes, tuple, list, dict, set)))
        self._copies_left -= sum(map(len, sized))
        if self._copies_left < 0:
            raise CheckpointError("The pickle copies its own data again and again, which no checkpoint needs.")


def to_plain(value: Any) -> Any:
    """Turn a configuration that was read as inert data into plain dicts, lists and scalars.

    Handles OmegaConf containers and nodes, and objects whose attributes are the fields, such as dataclasses. Anything
    else becomes its class name. References to other keys (``${...}``) are not resolved.

    Raises
    ------
    CheckpointError
        When it is nested too deeply, or a key is not a scalar.
    """
    done: dict[int, Any] = {}  # each object is converted once, so that shared ones do not multiply

    def convert(value: Any) -> Any:
        if isinstance(value, _SCALARS):
            return value
        if id(value) not in done:
            done[id(value)] = None  # a cycle ends in None
            done[id(value)] = convert_container(value)
        return done[id(value)]

    def convert_container(value: Any) -> Any:
        if isinstance(value, InertObject):
            state = value.state if isinstance(value.state, dict) else {}
            if value.items:
                if not all(isinstance(item, tuple) and len(item) == 2 for item in value.items):
                    return convert_container(value.items)
                return convert_container({checked_key(key): item for key, item in value.items})
            content = next((state[name] for name in ("_content", "_val") if name in state), state or repr(value))
            return convert(content)
        if isinstance(value, dict):
            return {key: convert(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [convert(item) for item in value]
        return value.name if isinstance(value, GlobalName) else f"<{type(value).__name__}>"

    try:
        return convert(value)
    except RecursionError as error:
        raise CheckpointError(
            "The settings in the checkpoint are nested too deeply. Check where the file comes from, then give its "
            "settings as options."
        ) from error
