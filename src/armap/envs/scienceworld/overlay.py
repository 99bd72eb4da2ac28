"""Alters copies of a few of the simulator's classes: it can save its state then, repeats itself exactly and is quicker.

As it comes (version 1.2.3) it saves nothing, and keeps objects in hash sets ordered by memory addresses, so the order
in which it lists objects, heats them and numbers the meanings of an ambiguous action changes from one load to the next.
The altered copies go before its jar on the class path:

1. Its classes are marked `java.io.Serializable`, so that Java can write a whole state and read it again.
2. An object hashes to its number within the loaded task, not to its address; and that number is the first thing of it
   that is written and read, as objects contain each other in circles, and sets hash what they are read with.
3. Mutable sets keep the order in which their elements came, also when they are written and read.
4. The words of a name are split once. Understanding an action matches it with all names of all things in reach, over
   and over, and more than half of a step's time went into splitting them with regular expressions.

No rule of the simulated world is touched: every order that results is one that it could have had before.

Source: The Java Virtual Machine Specification, Java SE 8, chapter 4 (the format of class files).
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

_SAVABLE = ("scienceworld/", "language/model/", "scala/util/parsing/input/NoPosition$.class")
"""Where the classes are that a state consists of, besides those of the Scala library that can be written anyway."""
_OBJECT_CLASS = "scienceworld/struct/EnvObject.class"
"""Base class of all things in the simulated world."""
_OBJECT_NUMBER = b"uuid"
"""Its field of type long that counts the objects since the task was loaded."""
_SET_FACTORY = "scala/collection/mutable/Set$.class"
"""What makes a mutable set where the simulator asks for any."""
_PARSER_CLASS = "scienceworld/input/InputParser$.class"
"""What understands actions."""
_SPLIT, _SPLIT_SIGNATURE = b"tokenize", b"(Ljava/lang/String;)[Ljava/lang/String;"
"""Its method that splits a name into words, without those that say nothing; it depends on nothing else."""
MEMORY = "armapMemory"
"""The static field that is added to it: a `java.util.HashMap` of what names were split into."""

_INTERFACE = 0x0200
_PUBLIC, _PRIVATE, _STATIC = 1, 2, 8
_UTF8, _CLASS, _FIELD, _METHOD, _NAME_AND_TYPE = 1, 7, 9, 10, 12
_WIDE_CONSTANTS = {5, 6}
_CONSTANT_BYTES = {
    3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2,
}  # fmt: skip
"""Size of a constant's body by its tag; that of a text stands before it."""


def write_overlay(jar: Path, overlay: Path) -> None:
    """Write the altered copies of classes in `jar` to `overlay`, which is a jar too."""
    with zipfile.ZipFile(jar) as old, zipfile.ZipFile(overlay, "w") as new:
        for name in old.namelist():
            if name == _SET_FACTORY:
                classfile = _ClassFile(old.read(name))
                classfile.rename(b"mutable/HashSet", b"mutable/LinkedHashSet")
                new.writestr(name, classfile.to_bytes())
            elif name.startswith(_SAVABLE) and name.endswith(".class"):
                classfile = _ClassFile(old.read(name))
                if not classfile.is_interface and classfile.superclass == b"java/lang/Object":
                    classfile.implement(b"java/io/Serializable")
                    if name == _OBJECT_CLASS:
                        classfile.identify_by(_OBJECT_NUMBER)
                    if name == _PARSER_CLASS:
                        classfile.remember(_SPLIT, _SPLIT_SIGNATURE, memory=MEMORY.encode())
                    new.writestr(name, classfile.to_bytes())


class _ClassFile:
    """A compiled Java class, of which a few things can be changed."""

    def __init__(self, code: bytes) -> None:
        self._version = code[4:8]
        (count,) = struct.unpack_from(">H", code, 8)
        self._constants: list[bytes] = [b""]
        at = 10
        while len(self._constants) < count:
            tag = code[at]
            size = 3 + _number(code, at + 1) if tag == _UTF8 else 1 + _CONSTANT_BYTES[tag]
            self._constants.append(code[at : at + size])
            if tag in _WIDE_CONSTANTS:
                self._constants.append(b"")
            at += size
        self._access, self._this, self._super, interfaces = struct.unpack_from(">4H", code, at)
        self._interfaces = list(struct.unpack_from(f">{interfaces}H", code, at + 8))
        fields = at + 8 + 2 * interfaces
        methods = _after_members(code, fields)
        attributes = _after_members(code, methods)
        self._fields = code[fields:methods]
        self._method_count = _number(code, methods)
        self._methods = code[methods + 2 : attributes]
        self._attributes = code[attributes:]

    @property
    def is_interface(self) -> bool:
        """Whether it is an interface and no class."""
        return bool(self._access & _INTERFACE)

    @property
    def superclass(self) -> bytes:
        """Full name of the class it extends, with slashes."""
        name = _number(self._constants[self._super], 1)
        return self._constants[name][3:]

    def rename(self, old: bytes, new: bytes) -> None:
        """Replace `old` by `new` in every name."""
        for i, constant in enumerate(self._constants):
            if constant[:1] == bytes([_UTF8]):
                text = constant[3:].replace(old, new)
                self._constants[i] = _utf8(text)

    def implement(self, interface: bytes) -> None:
        """Declare that the class implements an interface without methods."""
        self._interfaces.append(self._class(interface))

    def identify_by(self, field: bytes) -> None:
        """Let objects hash to a field of type long, cut to 32 bits, and write and read it before all others."""
        number = self._member(_FIELD, self._this, field, b"J")
        output, input_ = self._class(b"java/io/ObjectOutputStream"), self._class(b"java/io/ObjectInputStream")
        write = self._member(_METHOD, output, b"writeLong", b"(J)V")
        write_rest = self._member(_METHOD, output, b"defaultWriteObject", b"()V")
        read = self._member(_METHOD, input_, b"readLong", b"()J")
        read_rest = self._member(_METHOD, input_, b"defaultReadObject", b"()V")
        this, stream, get, put, call, cut, give, end = 0x2A, 0x2B, 0xB4, 0xB5, 0xB6, 0x88, 0xAC, 0xB1
        code = struct.pack(">BBHBB", this, get, number, cut, give)
        self._add_method(_PUBLIC, b"hashCode", b"()I", code)
        code = struct.pack(">BBBHBHBBHB", stream, this, get, number, call, write, stream, call, write_rest, end)
        self._add_method(_PRIVATE, b"writeObject", b"(Ljava/io/ObjectOutputStream;)V", code)
        code = struct.pack(">BBBHBHBBHB", this, stream, call, read, put, number, stream, call, read_rest, end)
        self._add_method(_PRIVATE, b"readObject", b"(Ljava/io/ObjectInputStream;)V", code)

    def remember(self, method: bytes, signature: bytes, *, memory: bytes) -> None:
        """Let the class ask a map first, before it calls a method of its own with one argument.

        Args:
            method: name of the method, which returns an object.
            signature: types of its argument and of what it returns.
            memory: name of the static field that is added for the map.
        """
        asked = method + b"Remembered"
        for i, constant in enumerate(self._constants):
            # All calls from within, but not the method itself, name it so.
            if constant[:1] == bytes([_NAME_AND_TYPE]):
                name, its_type = (_number(constant, at) for at in (1, 3))
                if (self._constants[name][3:], self._constants[its_type][3:]) == (method, signature):
                    self._constants[i] = struct.pack(">BHH", _NAME_AND_TYPE, self._add(_utf8(asked)), its_type)
        self._add_field(_PUBLIC | _STATIC, memory, b"Ljava/util/HashMap;")
        field = self._member(_FIELD, self._this, memory, b"Ljava/util/HashMap;")
        map_ = self._class(b"java/util/HashMap")
        find = self._member(_METHOD, map_, b"get", b"(Ljava/lang/Object;)Ljava/lang/Object;")
        keep = self._member(_METHOD, map_, b"put", b"(Ljava/lang/Object;Ljava/lang/Object;)Ljava/lang/Object;")
        anew = self._member(_METHOD, self._this, method, signature)
        result = self._class(signature.partition(b")")[2])
        this, argument, found, keep_found = 0x2A, 0x2B, 0x2C, 0x4D
        get, call, copy, drop, if_any, cast, give = 0xB2, 0xB6, 0x59, 0x57, 0xC7, 0xC0, 0xB0
        look = struct.pack(">BHBBHB", get, field, argument, call, find, copy)
        make = struct.pack(">BBBBHB", drop, this, argument, call, anew, keep_found)
        make += struct.pack(">BHBBBHBB", get, field, argument, found, call, keep, drop, found)
        code = look + struct.pack(">BH", if_any, 3 + len(make)) + make + struct.pack(">BHB", cast, result, give)
        # Where both ways meet, an object is on the stack.
        frame = struct.pack(">BBH", 64 + code.index(make) + len(make), 7, self._class(b"java/lang/Object"))
        self._add_method(_PUBLIC, asked, signature, code, frames=(frame,))

    def _add_field(self, access: int, name: bytes, descriptor: bytes) -> None:
        count, others = _number(self._fields, 0), self._fields[2:]
        names = self._add(_utf8(name)), self._add(_utf8(descriptor))
        self._fields = struct.pack(">H", count + 1) + others + struct.pack(">4H", access, *names, 0)

    def _add_method(
        self, access: int, name: bytes, signature: bytes, code: bytes, *, frames: Sequence[bytes] = ()
    ) -> None:
        """Add a method of up to one argument, with one variable and up to three words on the stack.

        `frames` says what is on the stack at each place that is jumped to.
        """
        table = struct.pack(">H", len(frames)) + b"".join(frames)
        attributes = struct.pack(">HHI", 1, self._add(_utf8(b"StackMapTable")), len(table)) + table
        body = struct.pack(">HHI", 3, 3, len(code)) + code + struct.pack(">H", 0) + attributes
        names = [self._add(_utf8(text)) for text in (name, signature, b"Code")]
        self._methods += struct.pack(">4HHI", access, *names[:2], 1, names[2], len(body)) + body
        self._method_count += 1

    def _member(self, kind: int, of: int, name: bytes, signature: bytes) -> int:
        names = self._add(_utf8(name)), self._add(_utf8(signature))
        return self._add(struct.pack(">BHH", kind, of, self._add(struct.pack(">BHH", _NAME_AND_TYPE, *names))))

    def to_bytes(self) -> bytes:
        """Return the class as a file."""
        return b"".join(
            (
                b"\xca\xfe\xba\xbe",
                self._version,
                struct.pack(">H", len(self._constants)),
                *self._constants,
                struct.pack(">4H", self._access, self._this, self._super, len(self._interfaces)),
                struct.pack(f">{len(self._interfaces)}H", *self._interfaces),
                self._fields,
                struct.pack(">H", self._method_count),
                self._methods,
                self._attributes,
            )
        )

    def _class(self, name: bytes) -> int:
        return self._add(struct.pack(">BH", _CLASS, self._add(_utf8(name))))

    def _add(self, constant: bytes) -> int:
        self._constants.append(constant)
        return len(self._constants) - 1


def _number(code: bytes, at: int) -> int:
    """Return the unsigned number in two bytes."""
    return int.from_bytes(code[at : at + 2], "big")


def _utf8(text: bytes) -> bytes:
    return struct.pack(">BH", _UTF8, len(text)) + text


def _after_members(code: bytes, at: int) -> int:
    """Return where the fields or methods end that begin at `at` with their number."""
    members, at = _number(code, at), at + 2
    for _ in range(members):
        attributes, at = _number(code, at + 6), at + 8
        for _ in range(attributes):
            at += 6 + int.from_bytes(code[at + 2 : at + 6], "big")
    return at
