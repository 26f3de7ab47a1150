"""What precall uses of vLLM is listed, and a vLLM that lacks it is found before it is imported."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from precall_service.engine import vllm as package
from precall_service.engine.base import EngineStartError
from precall_service.engine.vllm.pin_check import PinCheck, checked, installed_vllm
from precall_service.engine.vllm.pinned import USES, VERIFIED_VERSION, Part

OUR_FOLDER = Path(str(package.__file__)).parent
ONLY_IN_SOME_ENGINES = {
    "scheduling.py": {Part.SERVICE, Part.DRAFTS},
    "cpu_worker.py": {Part.SERVICE, Part.CPU, Part.CPU_VERIFICATION},
    "gpu_worker.py": {Part.SERVICE, Part.GPU_DRAFTS},
}
"""Modules that only the processes of some engines import, and what may be missing elsewhere."""

SCHEDULER = "vllm.v1.core.sched.scheduler"
CORE = "vllm.v1.engine.core"
RUNNER = "vllm.v1.worker.gpu_model_runner"
SAMPLER = "vllm.v1.sample.rejection_sampler"
LLM = "vllm.v1.engine.async_llm"


def source(module: str) -> Path:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent.parent.joinpath(*module.split("."))
    file = path.with_suffix(".py")
    return file if file.is_file() else path / "__init__.py"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., PinCheck]:
    """Checks vLLM with one of its modules changed: the old text in it replaced by the new."""

    def changed(
        module: str, old: str, new: str, version: str = VERIFIED_VERSION, *, on_cpu: bool = True
    ) -> PinCheck:
        uses = {part: {each: names for each, names in used.items() if each == module}
                for part, used in USES.items()}  # fmt: skip
        text = source(module).read_text()
        assert old in text
        file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True)
        file.write_text(text.replace(old, new))
        return checked(tmp_path, version, on_cpu=on_cpu, uses=uses)

    return changed


def test_the_installed_vllm_has_everything() -> None:
    found = installed_vllm()
    assert not found.lacking
    assert found.known
    found.require()
    assert not found.why_no_drafts()
    assert not found.why_no_verification()


def imports(file: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vllm":
            yield from ((str(node.module), each.name) for each in node.names)


def test_everything_that_is_imported_is_listed() -> None:
    """What only some engines import may be missing in others, so it is listed as theirs."""
    missing: list[str] = []
    for file in sorted(OUR_FOLDER.glob("*.py")):
        listed: dict[str, set[str]] = {}
        for part in ONLY_IN_SOME_ENGINES.get(file.name, {Part.SERVICE}):
            for module, names in USES[part].items():
                firsts = {name.partition("(")[0].partition(".")[0] for name in names}
                listed.setdefault(module, set()).update(firsts)
        missing += [
            f"{file.name}: {module}.{name}"
            for module, name in imports(file)
            if name not in listed.get(module, ()) and f"{module}.{name}" not in listed
        ]
    assert not missing


def test_the_documentation_says_what_is_replaced() -> None:
    told = (OUR_FOLDER.parents[3] / "docs" / "engine.md").read_text()
    functions = {
        name.partition("(")[0]
        for part in (Part.CPU, Part.DRAFTS, Part.CPU_VERIFICATION, Part.GPU_DRAFTS)
        for names in USES[part].values()
        for name in names
        if "(" in name
    }
    assert not [name for name in functions if f"`{name}`" not in told]
    assert VERIFIED_VERSION in told


@pytest.mark.parametrize(
    ("module", "old", "new", "told"),
    [
        (LLM, "self.output_handler", "self.handler", "no vllm.v1.engine.async_llm.AsyncLLM.output"),
        (LLM, "def shutdown(self, timeout", "def shutdown(self, delay", "are now (delay)"),
        (SCHEDULER, "def get_request_counts", "def counts", "Scheduler.get_request_counts"),
        (SCHEDULER, "class Scheduler(", "class Planner(", f"no {SCHEDULER}.Scheduler"),
    ],
)
def test_what_the_service_needs_is_asked_for_by_name(
    changed: Callable[..., PinCheck], module: str, old: str, new: str, told: str
) -> None:
    with pytest.raises(EngineStartError) as refusal:
        changed(module, old, new).require()
    assert told in str(refusal.value)
    assert f"Install vLLM {VERIFIED_VERSION}" in str(refusal.value)


def test_a_module_that_is_gone_is_named(tmp_path: Path) -> None:
    found = checked(
        tmp_path, "0.99.0", on_cpu=False, uses={Part.SERVICE: {"vllm.logprobs": ("Logprob",)}}
    )
    with pytest.raises(EngineStartError, match=r"no module vllm\.logprobs .*0\.99\.0 is installed"):
        found.require()


def test_a_worker_that_differs_ends_the_start_on_a_cpu_only(
    changed: Callable[..., PinCheck],
) -> None:
    found = changed(RUNNER, "def sample_tokens(", "def sample_all(")
    with pytest.raises(EngineStartError, match=r"GPUModelRunner\.sample_tokens"):
        found.require()
    PinCheck(found.version, on_cpu=False, lacking=found.lacking).require()


@pytest.mark.parametrize(
    ("module", "old", "new", "told"),
    [
        (SCHEDULER, "def update_draft_token_ids(", "def take_drafts(", "no "),
        (
            SCHEDULER,
            "model_runner_output: ModelRunnerOutput,\n    ) -> dict[int",
            "model_runner_output: ModelRunnerOutput,\n        more: int,\n    ) -> dict[int",
            "are now (scheduler_output, model_runner_output, more)",
        ),
        (SCHEDULER, "self.num_spec_tokens", "self.spec_tokens", "Scheduler.num_spec_tokens"),
        (CORE, "def post_step(", "def after_step(", "EngineCore.post_step"),
    ],
)
def test_drafts_are_off_where_vllm_differs(
    changed: Callable[..., PinCheck], module: str, old: str, new: str, told: str
) -> None:
    found = changed(module, old, new)
    assert told in found.why_no_drafts()
    found.require()
    assert not found.why_no_verification()


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (SAMPLER, "def expand_batch_to_tokens(", "def expanded("),
        (SAMPLER, "replace_to: int = 0", "replace_with: int = 0"),
        (RUNNER, "def _sample(", "def _sampled("),
    ],
)
def test_nothing_is_verified_where_the_sampler_of_a_cpu_differs(
    changed: Callable[..., PinCheck], module: str, old: str, new: str
) -> None:
    found = changed(module, old, new)
    assert found.why_no_verification()
    assert found.why_no_drafts() == found.why_no_verification()
    found.require()
    on_gpu = PinCheck(found.version, on_cpu=False, lacking=found.lacking)
    assert not on_gpu.why_no_drafts()


def test_drafts_are_off_with_another_version() -> None:
    other = PinCheck("0.33.0", on_cpu=True, lacking={})
    assert other.why_no_drafts() == (
        f"that was tested with vLLM {VERIFIED_VERSION}, and 0.33.0 is installed"
    )
    other.require()
    assert not PinCheck(f"{VERIFIED_VERSION}+cpu", on_cpu=True, lacking={}).why_no_drafts()
