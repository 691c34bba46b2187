# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an artefact was made from: a stable kind, its version, the code, the settings and the inputs.

The code counts as the set of definitions that the producing function reaches inside the package:
functions, classes and constants, followed through imports, each reduced to its syntax tree without
docstrings, comments and annotations. So an edited constant makes artefacts stale, and an edit
elsewhere, a moved definition or a renamed module does not. `store`, `runner`, `urls` and `confinement` do not
count: they move bytes and spread work; what they store is versioned by `ARTEFACT_VERSION`.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from imgfp.store.files import hash_of

#: Raised when the way in which artefacts are stored changes, so that old ones are made again.
ARTEFACT_VERSION = 1

_PACKAGE = Path(__file__).resolve().parents[1]
_INFRASTRUCTURE = ("imgfp.runner", "imgfp.store", "imgfp.urls", "imgfp.confinement")
_COUNTED_ALL_THE_SAME = ("imgfp.store.formats",)
#: Kind -> {"now": code hash, "equal": hashes of earlier code that made the same bytes}. Void as soon as
#: the code is no longer the one of "now". Artefacts older than code hashes count as made by "0.1.0".
_EQUAL_CODE = Path(__file__).with_name("equal_code.json")

_short_lived: ContextVar[bool] = ContextVar("short_lived", default=False)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Kind:
    """A kind of artefact: a name that outlives renamed modules and functions, the version of its
    meaning, and the names under which version 0.1.0 stored it."""

    name: str
    version: int
    formerly: tuple[str, ...]


def produces(
    name: str,
    *,
    version: int = 1,
    formerly: Sequence[str] = (),
    piece: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Decorator: the function makes artefacts of this kind. Raise `version` when they mean something
    else though no code that the function reaches has changed. piece: the function whose results it puts
    together, see `runner.cluster.map_shards`; since the decorator names it, its code counts too."""

    def mark(function: F) -> F:
        function.kind = Kind(name, version, tuple(formerly))  # type: ignore[attr-defined]
        function.piece = piece  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True)
class Origin:
    """What decides whether an artefact must be made again; see the module."""

    kind: Kind
    code: str
    settings: dict[str, Any]
    inputs: str

    @cached_property
    def fingerprint(self) -> str:
        return hash_of(self.described())

    def described(self) -> dict[str, Any]:
        """The origin as a sidecar keeps it."""
        return {
            "kind": self.kind.name,
            "version": [ARTEFACT_VERSION, self.kind.version],
            "code": self.code,
            "settings": self.settings,
            "inputs": self.inputs,
        }

    def differences(self, sidecar: dict[str, Any]) -> str:
        """In words, how the artefact of a sidecar was made otherwise; blank where it was made so."""
        former = sidecar.get("maker")  # 0.1.0 named the function and kept no code
        kind = self.kind.name if former in self.kind.formerly else sidecar.get("kind", former)
        version = [sidecar.get("version"), 1] if former else sidecar.get("version")
        code = "0.1.0" if former else sidecar.get("code")
        said = []
        if kind != self.kind.name:
            said.append(f"kind {kind!r} -> {self.kind.name!r}")
        if version != [ARTEFACT_VERSION, self.kind.version]:
            said.append("its meaning has a new version")
        if code != self.code and code not in _equal_code(self.kind.name, self.code):
            said.append("the code that makes it has changed")
        old = sidecar.get("settings", {})
        said += [
            f"{key} {old.get(key, 'unset')!r} -> {self.settings.get(key, 'unset')!r}"
            for key in sorted({*old, *self.settings})
            if old.get(key) != self.settings.get(key)
        ]
        if sidecar.get("inputs") != self.inputs:
            said.append("its inputs have changed")
        return ", ".join(said)


def origin(
    function: Callable[..., Any], settings: dict[str, Any], inputs: Sequence[str] = ()
) -> Origin:
    """The origin of what a function marked by `produces` makes with these settings out of inputs (hashes).

    Raises TypeError for a function that is not marked.
    """
    kind = getattr(function, "kind", None)
    if not isinstance(kind, Kind):
        raise TypeError(f"{function.__qualname__} makes no kind of artefact; mark it by `produces`")
    plain = json.loads(json.dumps(settings, default=str))
    code = "" if _short_lived.get() else code_hash(function)
    return Origin(kind, code, plain, hash_of(list(inputs)))


@contextmanager
def short_lived() -> Iterator[None]:
    """Whatever is made meanwhile goes before the code can change, so its `origin` leaves out the code, which takes half a
    second to read."""
    token = _short_lived.set(True)
    try:
        yield
    finally:
        _short_lived.reset(token)


@cache
def code_hash(function: Callable[..., Any]) -> str:
    """Hash of all definitions that a function reaches inside the package, itself included."""
    function = inspect.unwrap(function)
    module = _module(function.__module__, inspect.getsourcefile(function))
    waiting = [(module, function.__name__)]
    reached: dict[tuple[str, str], str] = {}
    while waiting:
        module, name = waiting.pop()
        if (module.name, name) in reached:
            continue
        unit = module.unit(name)
        reached[module.name, name] = hash_of(name, unit.canonical)
        waiting += unit.reaches
        waiting += [(module, other) for other in module.always]
    return hash_of(sorted(reached.values()))


@cache
def _equal_code(kind: str, code: str) -> frozenset[str]:
    known = json.loads(_EQUAL_CODE.read_bytes()).get(kind, {})
    return frozenset(known["equal"]) if known.get("now") == code else frozenset()


# ------------------------------------------------------------------------------- syntax trees


@dataclass(frozen=True)
class _Unit:
    """A definition: its canonical form, and the definitions that it names."""

    canonical: Any
    reaches: list[tuple[_Module, str]]


class _Module:
    """The top-level definitions of one file, and what its imports of the package are called there."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.definitions: dict[str, list[ast.stmt]] = {}
        #: Statements that are no definitions, as names that no identifier can have.
        self.always: list[str] = []
        self.imports: dict[str, tuple[str, str]] = {}
        for node in ast.parse(path.read_text("utf-8")).body:
            names = [name for name in _defined(node) if name != "__all__"]
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= _own_imports(node)
            elif names:
                for name in names:
                    self.definitions.setdefault(name, []).append(node)
            elif not (_is_text(node) or _is_for_types(node) or _defined(node)):
                self.always.append(f"statement {len(self.always)}")
                self.definitions[self.always[-1]] = [node]

    @cache  # noqa: B019 - as many modules as the package has, kept for the life of the process
    def unit(self, name: str) -> _Unit:
        nodes = self.definitions[name]
        walk = _Walk(self)
        canonical = [walk.of(node) for node in nodes]
        return _Unit(canonical, list(walk.reached))

    def resolve(self, name: str, local: dict[str, tuple[str, str]]) -> tuple[_Module, str] | None:
        """The definition that a name stands for here; (module, "") for a module; None outside."""
        if name in local or name in self.imports:
            return _find(*(local.get(name) or self.imports[name]))
        return (self, name) if name in self.definitions else None


class _Walk:
    """Turns a syntax tree into plain lists that no docstring, annotation, import or module name
    changes, and collects the definitions that it names."""

    def __init__(self, module: _Module) -> None:
        self._module = module
        self._local: dict[str, tuple[str, str]] = {}
        self.reached: dict[tuple[_Module, str], None] = {}

    def of(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.of(item) for item in node if not self._is_silent(item)]
        if not isinstance(node, ast.AST):
            return node if node is None or isinstance(node, bool | int | str) else repr(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    self._local |= _own_imports(inner)
        if isinstance(node, ast.Attribute):
            found = self._attribute(node)
            if found:
                return found
        if isinstance(node, ast.Name):
            return self._name(node)
        fields = [
            [field, self.of(value)]
            for field, value in ast.iter_fields(node)
            if field not in _SILENT_FIELDS and value is not None and value != []
        ]
        return [type(node).__name__, fields]

    def _name(self, node: ast.Name) -> list[str]:
        found = self._module.resolve(node.id, self._local)
        if found is None:
            return ["Name", node.id]
        self._reach(*found)
        return ["Name", found[1] or "module"]

    def _attribute(self, node: ast.Attribute) -> list[str] | None:
        """`module.name` as the bare name, wherever the module lies."""
        parts = [node.attr]
        value = node.value
        while isinstance(value, ast.Attribute):
            parts.append(value.attr)
            value = value.value
        found = self._module.resolve(value.id, self._local) if isinstance(value, ast.Name) else None
        if found is None or found[1]:
            return None  # an attribute of a value
        while parts and found and not found[1]:
            found = _find(f"{found[0].name}.{parts[-1]}", "") or _find(found[0].name, parts[-1])
            parts.pop()
        if parts or found is None:
            return None
        self._reach(*found)
        return ["Name", found[1] or "module"]

    def _reach(self, module: _Module, name: str) -> None:
        # A module that is handed on as a value may be asked for any of its definitions.
        for one in [name] if name else module.definitions:
            self.reached[module, one] = None

    def _is_silent(self, node: Any) -> bool:
        return isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node)


#: Fields of a syntax tree that change no result, or that only some versions of Python have.
_SILENT_FIELDS = {"annotation", "returns", "ctx", "kind", "type_comment", "type_params", "simple"}


def _find(module: str, name: str) -> tuple[_Module, str] | None:
    """The definition `name` of a module, followed through re-exports; (module, "") for no name; None
    where it lies outside the package or in its infrastructure."""
    if name and _path(f"{module}.{name}"):
        module, name = f"{module}.{name}", ""
    path = _path(module)
    if path is None or _is_infrastructure(module):
        return None
    found = _module(module, str(path))
    if not name or name in found.definitions:
        return found, name
    return _find(*found.imports[name]) if name in found.imports else None


def _path(module: str) -> Path | None:
    """The file of a module of the package."""
    parts = module.split(".")
    if parts[0] != "imgfp":
        return None
    base = _PACKAGE.joinpath(*parts[1:])
    files = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in files if path.is_file()), None)


@cache
def _module(name: str, path: str | None) -> _Module:
    if path is None:
        raise TypeError(f"{name}: no source file to tell its code by")
    return _Module(name, Path(path))


def _is_infrastructure(module: str) -> bool:
    def below(names: Sequence[str]) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in names)

    return below(_INFRASTRUCTURE) and not below(_COUNTED_ALL_THE_SAME) and _path(module) is not None


def _own_imports(node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str]]:
    """What an import of the package binds: name -> (module, name in it)."""
    if isinstance(node, ast.Import):
        named = {a.asname or a.name: (a.name, "") for a in node.names if a.asname}
        return {name: at for name, at in named.items() if at[0].startswith("imgfp")}
    if (node.module or "").split(".")[0] != "imgfp":
        return {}
    return {a.asname or a.name: (str(node.module), a.name) for a in node.names}


def _defined(node: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for inner in [inner for target in targets for inner in ast.walk(target)]:
            if isinstance(inner, ast.Name):
                yield inner.id


def _is_text(node: Any) -> bool:
    """A docstring, or another string that stands alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
