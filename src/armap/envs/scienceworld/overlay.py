"""Alters copies of a few of the simulator's classes, so that it can save its state and repeats itself exactly.

As it comes (version 1.2.3) it can do neither: it keeps objects in hash sets ordered by memory addresses, so the order
in which it lists objects, heats them and numbers the meanings of an ambiguous action changes from one load to the next.
The altered copies go before its jar on the class path:

1. Its classes are marked `java.io.Serializable`, so that Java can write a whole state and read it again.
2. An object hashes to its number within the loaded task, not to its address; and that number is the first thing of it
   that is written and read, as objects contain each other in circles, and sets hash what they are read with.
3. Mutable sets keep the order in which their elements came, also when they are written and read.

No rule of the simulated world is touched: every order that results is one that it could have had before.

Source: The Java Virtual Machine Specification, Java SE 8, chapter 4 (the format of class files).
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

_SAVABLE = ("scienceworld/", "language/model/", "scala/util/parsing/input/NoPosition$.class")
"""Where the classes are that a state consists of, besides those of the Scala library that can be written anyway."""
_OBJECT_CLASS = "scienceworld/struct/EnvObject.class"
"""Base class of all things in the simulated world."""
_OBJECT_NUMBER = b"uuid"
"""Its field of type long that counts the objects since the task was loaded."""
_SET_FACTORY = "scala/collection/mutable/Set$.class"
"""What makes a mutable set where the simulator asks for any."""

_INTERFACE = 0x0200
_PUBLIC, _PRIVATE = 1, 2
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

    def _add_method(self, access: int, name: bytes, signature: bytes, code: bytes) -> None:
        """Add a method of up to one argument that puts up to three words on the stack."""
        body = struct.pack(">HHI", 3, 2, len(code)) + code + struct.pack(">HH", 0, 0)
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
