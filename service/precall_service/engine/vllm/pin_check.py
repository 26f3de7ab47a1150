"""Finds out what the installed vLLM lacks of what precall uses (`pinned`), by reading its sources.

Nothing is imported: a module of another version may fail to import, or change others when it does.
Reading takes a second.

Owns: what is told to the operator of a vLLM that differs.
Never: vLLM itself, or what to do about a difference.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from precall_service.engine.base import EngineStartError
from precall_service.engine.install import INSTALL_ENGINE, installed_engine
from precall_service.engine.vllm.pinned import USES, VERIFIED_VERSION, Part, Uses

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class PinCheck:
    """What was found of one vLLM. Each text names a difference and the version that was verified.

    Attributes:
        version: That of the vLLM.
        on_cpu: Whether it is the one that runs on a CPU.
        lacking: For each part, the first name that it would need and that is not there.
    """

    version: str
    on_cpu: bool
    lacking: Mapping[Part, str]

    @property
    def known(self) -> bool:
        """Whether the version is the verified one."""
        return self.version.partition("+")[0] == VERIFIED_VERSION

    def require(self) -> None:
        """Returns if the service can run on this vLLM.

        Raises:
            EngineStartError: vLLM lacks something that the service cannot run without.
        """
        for part in (Part.SERVICE, Part.CPU) if self.on_cpu else (Part.SERVICE,):
            if lacking := self.lacking.get(part):
                raise EngineStartError(
                    f"precall cannot run on the installed vLLM: {lacking}. Install vLLM "
                    f"{VERIFIED_VERSION}"
                )

    def why_no_drafts(self) -> str:
        """Why predicted calls cannot be verified with this vLLM; empty if they can."""
        if not self.known:
            return f"that was tested with vLLM {VERIFIED_VERSION}, and {self.version} is installed"
        on_gpu = "" if self.on_cpu else self.lacking.get(Part.GPU_DRAFTS, "")
        return self.lacking.get(Part.DRAFTS, "") or on_gpu or self.why_no_verification()

    def why_no_verification(self) -> str:
        """Why tokens of any draft cannot be verified with this vLLM; empty if they can."""
        return self.lacking.get(Part.CPU_VERIFICATION, "") if self.on_cpu else ""


@functools.cache
def installed_vllm() -> PinCheck:
    """What was found of the vLLM that is installed.

    Raises:
        EngineStartError: none is installed.
    """
    engine = installed_engine()
    spec = importlib.util.find_spec("vllm")
    if engine is None or spec is None or spec.origin is None:
        raise EngineStartError(f"vLLM is not installed: run {INSTALL_ENGINE}")
    folder = Path(spec.origin).parent.parent
    return checked(folder, engine.version, on_cpu=engine.device == "cpu")


def checked(
    folder: Path, version: str, *, on_cpu: bool, uses: Mapping[Part, Uses] = USES
) -> PinCheck:
    """What was found of the vLLM of this version in a folder of packages."""
    sources = _Sources(folder)
    lacking = {
        part: f"{problem} (tested with vLLM {VERIFIED_VERSION}; {version} is installed)"
        for part, names in uses.items()
        if (problem := next(_problems(sources, names), None))
    }
    return PinCheck(version, on_cpu, lacking)


def _problems(sources: _Sources, uses: Uses) -> Iterator[str]:
    for module, names in uses.items():
        body = sources.body(module)
        if body is None:
            yield f"it has no module {module}"
            continue
        for name in names:
            path, _, parameters = name.rstrip(")").partition("(")
            found = _found(body, path)
            if found is None:
                yield f"it has no {module}.{path}"
            elif "(" in name:
                wanted = [each for each in parameters.split(", ") if each]
                has = _parameters(found)
                if has is not None and has != wanted:
                    yield f"the parameters of {module}.{path} are now ({', '.join(has)})"


class _Sources:
    """The modules in a folder of packages, each parsed once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bodies: dict[str, list[ast.stmt] | None] = {}

    def body(self, module: str) -> list[ast.stmt] | None:
        """The statements of a module; None if there is no such module."""
        if module not in self._bodies:
            self._bodies[module] = self._read(self._folder.joinpath(*module.split(".")))
        return self._bodies[module]

    def _read(self, path: Path) -> list[ast.stmt] | None:
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return ast.parse(file.read_bytes()).body
        return None


def _found(body: list[ast.stmt], path: str) -> ast.stmt | None:
    """The statement that gives a name its meaning in a module, or in a class of the module."""
    name, _, member = path.partition(".")
    statement = next((each for each in _flat(body) if name in _named_by(each)), None)
    if not member or statement is None:
        return statement
    if not isinstance(statement, ast.ClassDef):
        return None
    return next((each for each in _members(statement) if member in _named_by(each)), None)


def _members(owner: ast.ClassDef) -> Iterator[ast.stmt]:
    """The statements of a class, and what its methods set of the instance."""
    yield from _flat(owner.body)
    for method in owner.body:
        if isinstance(method, _Function):
            for node in ast.walk(method):
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    yield node


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, and those under conditions."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from _flat(statement.body)
            yield from _flat(statement.orelse)


def _named_by(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            yield name
        case ast.AsyncFunctionDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (each.asname or each.name for each in names)
        case ast.Assign(targets=targets):
            yield from _targets(targets)
        case ast.AnnAssign(target=target):
            yield from _targets([target])
        case _:
            pass


def _targets(targets: list[ast.expr]) -> Iterator[str]:
    for target in targets:
        match target:
            case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self"), attr=name):
                yield name
            case ast.Tuple(elts=elements):
                yield from _targets(elements)
            case _:
                pass


def _parameters(statement: ast.stmt) -> list[str] | None:
    """The names of a function's parameters without `self` and `cls`; None if it is no function."""
    if not isinstance(statement, _Function):
        return None
    arguments = statement.args
    each = [*arguments.posonlyargs, *arguments.args]
    each += [arguments.vararg] if arguments.vararg else []
    each += arguments.kwonlyargs
    each += [arguments.kwarg] if arguments.kwarg else []
    return [one.arg for one in each if one.arg not in {"self", "cls"}]
