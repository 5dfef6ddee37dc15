"""Read the data in a pickle without running it.

A pickle is a program for a small stack machine, and its way to build an object is to import a name and call it.
Here the program is interpreted with names that stay names: nothing is imported, and a "call" is looked up in a
table that the caller gives, of functions of this package. An object of any other class is kept as an
[`InertObject`], that is, as its class name and its attributes. A pickle that tries to call anything else is refused.
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
    """A text that may hold names from a file, safe for a terminal: control characters escaped, long words cut."""
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return _LONG_WORD.sub(lambda word: f"{word[0][:160]}[{len(word[0]) - 160} more]", shown)


class CheckpointError(ValueError):
    """A checkpoint file that cannot be read."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint whose pickle tries to call something that does not merely carry data."""


@dataclass(frozen=True)
class GlobalName:
    """A class or function that the pickle refers to: its name, never the thing itself."""

    name: str


@dataclass(eq=False, repr=False)
class InertObject:
    """What is left of an object when its class is not run.

    Attributes
    ----------
    class_name : str
        Full name of its class.
    arguments : tuple
        What its constructor would have been given.
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
# Integers of this size on are hashed modulo a prime, so that a file can make as many collide as it likes; so can it
# with tuples, of whose hash nothing is secret. Collisions make a dictionary's work quadratic.
_FIRST_COLLIDING_INTEGER = 2**61 - 1
_MAX_TUPLE_KEYS = 1000
_MAX_TUPLE_KEY_LENGTH = 8


def checked_key(key: Any) -> Any:
    """The key itself, refused unless it is a scalar whose hash a file cannot choose."""
    if not isinstance(key, (*_SCALARS, GlobalName)):
        raise CheckpointError(f"The pickle uses a {type(key).__name__} as a key, which no checkpoint needs.")
    if isinstance(key, int) and abs(key) >= _FIRST_COLLIDING_INTEGER:
        raise CheckpointError(
            f"The pickle uses an integer of {key.bit_length()} bits as a key, which no checkpoint needs."
        )
    return key


class PickleReader:
    """Interpreter of one pickle.

    Parameters
    ----------
    calls : mapping of str to callable
        Full name of what a pickle may "call" to the function that stands in for it; it is given the arguments
        of the call and must only build data from them.
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
        inert_prefixes: Iterable[str] = (),
        persistent_load: Callable[[Any], Any] | None = None,
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
        """The object that the pickle describes, of plain containers, scalars and what `calls` return."""
        position = 0
        # what calls may copy: each thing once in an honest file, whatever is repeated by reference
        self._copies_left = 2 * len(data) + 1000
        try:
            for opcode, argument, found in pickletools.genops(data):
                position = found if found is not None else position
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except CheckpointError:
            raise
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise CheckpointError(f"The pickle is damaged near byte {position} ({error}).") from error
        raise CheckpointError("The pickle is damaged: it ends without its STOP opcode.")

    def _step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "PROTO":
            self._protocol = argument
        elif name != "FRAME":
            step = getattr(self, f"_do_{name.lower()}", None)
            if step is None:
                raise CheckpointError(f"The pickle uses the opcode {name}, which no checkpoint needs.")
            step(argument)

    def _pop_to_mark(self) -> list[Any]:
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    # --- containers

    def _do_pop(self, _):
        self._stack.pop()

    def _do_pop_mark(self, _):
        self._pop_to_mark()

    def _do_dup(self, _):
        self._stack.append(self._stack[-1])

    def _do_tuple(self, _):
        self._stack.append(tuple(self._pop_to_mark()))

    def _do_tuple1(self, _):
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _do_tuple2(self, _):
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _do_tuple3(self, _):
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _do_list(self, _):
        self._stack.append(self._pop_to_mark())

    def _do_dict(self, _):
        self._stack.append(self._fill({}, self._pairs(self._pop_to_mark())))

    def _do_frozenset(self, _):
        self._stack.append(frozenset(self._key(item) for item in self._pop_to_mark()))

    def _do_append(self, _):
        item = self._stack.pop()
        self._extend(self._stack[-1], [item])

    def _do_appends(self, _):
        items = self._pop_to_mark()
        self._extend(self._stack[-1], items)

    _do_additems = _do_appends

    def _do_setitem(self, _):
        value, key = self._stack.pop(), self._stack.pop()
        self._fill(self._stack[-1], [(key, value)])

    def _do_setitems(self, _):
        items = self._pop_to_mark()
        self._fill(self._stack[-1], self._pairs(items))

    def _key(self, key: Any) -> Any:
        """A key of a container, which in an honest file may also be one of few flat and short tuples."""
        if type(key) is not tuple:
            return checked_key(key)
        self._n_tuple_keys += 1
        if self._n_tuple_keys > _MAX_TUPLE_KEYS or len(key) > _MAX_TUPLE_KEY_LENGTH:
            raise CheckpointError("The pickle uses many or long tuples as keys, which no checkpoint needs.")
        for part in key:
            checked_key(part)
        return key

    @staticmethod
    def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
        return list(zip(items[::2], items[1::2], strict=True))

    def _fill(self, target: Any, pairs: list[tuple[Any, Any]]) -> Any:
        if isinstance(target, InertObject):
            target.items.extend(pairs)
        elif type(target) is dict:
            target.update((self._key(key), value) for key, value in pairs)
        else:
            raise CheckpointError(f"The pickle is damaged: it sets items of {type(target).__name__}.")
        return target

    def _extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, InertObject):
            target.items.extend(items)
        elif type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(self._key(item) for item in items)
        else:
            raise CheckpointError(f"The pickle is damaged: it adds elements to {type(target).__name__}.")

    # --- names and what would be calls

    def _do_global(self, argument: str):
        module, _, name = argument.partition(" ")
        self._stack.append(self._global(module, name))

    def _do_stack_global(self, _):
        name, module = self._stack.pop(), self._stack.pop()
        if type(module) is not str or type(name) is not str:
            raise CheckpointError(
                f"The pickle is damaged: it names a class by a {type(module).__name__} and a {type(name).__name__}."
            )
        self._stack.append(self._global(module, name))

    def _global(self, module: str, name: str) -> GlobalName:
        if self._protocol < 3:  # which writes the names of Python 2, such as `__builtin__` for `builtins`
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        return GlobalName(f"{module}.{name}")

    def _do_reduce(self, _):
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._call(function, arguments))

    def _do_inst(self, argument: str):
        module, _, name = argument.partition(" ")
        self._stack.append(self._call(self._global(module, name), tuple(self._pop_to_mark())))

    def _do_obj(self, _):
        function, *arguments = self._pop_to_mark()
        self._stack.append(self._call(function, tuple(arguments)))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, GlobalName):
            raise UnsafeCheckpointError(f"Refused: the pickle tries to call a {type(function).__name__}.")
        self._check_arguments(arguments)
        if function.name in self._calls:
            return self._calls[function.name](*arguments)
        if function.name.startswith(self._inert_prefixes):
            return self._inert(function, arguments)
        raise UnsafeCheckpointError(
            f"Refused: the pickle tries to call `{function.name}`, which does not merely carry data. Nothing was "
            "run. Do not open this file with `torch.load(..., weights_only=False)`, which would run it."
        )

    def _check_arguments(self, arguments: Any) -> None:
        """Refuse what is no tuple, and what would be copied again and again by calls of few bytes each."""
        if type(arguments) is not tuple:
            raise CheckpointError(
                f"The pickle is damaged: it calls with a {type(arguments).__name__}, expected a tuple."
            )
        copied = (*arguments, arguments)
        self._copies_left -= sum(
            len(each) for each in copied if isinstance(each, (str, bytes, tuple, list, dict, set))
        )
        if self._copies_left < 0:
            raise CheckpointError(
                "The pickle copies its own data again and again, which no checkpoint needs."
            )

    def _do_newobj(self, _):
        arguments, cls = self._stack.pop(), self._stack.pop()
        self._stack.append(self._inert(cls, arguments))

    def _do_newobj_ex(self, _):
        keywords, arguments, cls = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._check_arguments(arguments)
        self._stack.append(self._inert(cls, (*arguments, keywords)))

    def _inert(self, cls: Any, arguments: tuple) -> InertObject:
        if not isinstance(cls, GlobalName):
            raise UnsafeCheckpointError(f"Refused: the pickle makes an object of a {type(cls).__name__}.")
        self._check_arguments(arguments)
        self.inert_classes.add(cls.name)
        return InertObject(cls.name, arguments)

    def _do_build(self, _):
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, InertObject):
            target.state = state
        elif (
            type(target) is not dict
        ):  # a dict's attributes, such as `_metadata` of a state dict, are left out
            raise CheckpointError(f"The pickle is damaged: it sets attributes of {type(target).__name__}.")

    def _do_binpersid(self, _):
        self._stack.append(self._load_persistent(self._stack.pop()))

    def _do_persid(self, argument: str):
        self._stack.append(self._load_persistent(argument))

    def _load_persistent(self, persistent_id: Any) -> Any:
        if self._persistent_load is None:
            raise CheckpointError("The pickle refers to data outside of it, where there is none.")
        return self._persistent_load(persistent_id)


def to_plain(value: Any) -> Any:
    """Turn a configuration that was kept as inert data into plain dicts, lists and scalars.

    Understands OmegaConf containers and nodes, and objects whose attributes are the fields, such as dataclasses.
    Anything else comes out as its class name. References to other keys (``${...}``) stay as they are written.

    Raises
    ------
    CheckpointError
        When it is nested so deeply that no program wrote it, or keys are no names.
    """
    try:
        return _Plain().convert(value)
    except RecursionError as error:
        raise CheckpointError(
            "The settings in the checkpoint are nested more deeply than any program nests them: give what they would "
            "tell as options, after a look at where the file comes from."
        ) from error


class _Plain:
    """Conversion of one tree, in which each object is converted once."""

    def __init__(self):
        self._done: dict[int, Any] = {}

    def convert(self, value: Any) -> Any:
        if isinstance(value, _SCALARS):
            return value
        if id(value) not in self._done:
            self._done[id(value)] = None  # what a cycle comes to
            self._done[id(value)] = self._convert(value)
        return self._done[id(value)]

    def _convert(self, value: Any) -> Any:
        if isinstance(value, InertObject):
            state = value.state if isinstance(value.state, dict) else {}
            if value.items:
                if not all(isinstance(item, tuple) and len(item) == 2 for item in value.items):
                    return self._convert(value.items)
                return self._convert({checked_key(key): item for key, item in value.items})
            content = next(
                (state[name] for name in ("_content", "_val") if name in state), state or repr(value)
            )
            return self.convert(content)
        if isinstance(value, dict):
            return {key: self.convert(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.convert(item) for item in value]
        return value.name if isinstance(value, GlobalName) else f"<{type(value).__name__}>"
