import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "armap"

LAYERS = (
    {"types", "seeds", "canonical", "replies", "thoughts", "together", "user_cache"},
    {"errors"},
    {"images", "connections"},
    {"protocols", "store", "prompts", "tokentree", "weights", "browser"},
    {"workers"},
    {"llms", "envs", "rewards", "policy", "world"},
    {"planners", "engines"},
    {"pipeline", "serve"},
    {"environments", "doctor", "reward_models"},
    {"judging", "agent_settings"},
    {"commands", "gymnasium_ids"},
    {"cli"},
)
"""A unit imports from lower layers only, so no two units of one layer know each other."""

SHARED = {
    "envs.play",
    "envs.own",
    "envs.task_config",
    "llms.bought",
    "llms.chat_protocol",
    "llms.turns",
    "rewards.chat_template",
    "rewards.conversation",
    "rewards.rendering",
    "rewards.seeing",
    "rewards.fit_settings",
    "rewards.transformer",
    "rewards.tree_attention",
    "rewards.vila_network",
    "planners.rollouts",
    "planners.search",
    "planners.tree",
    "pipeline.outcomes",
    "pipeline.beginnings",
    "pipeline.charts",
    "pipeline.figures",
    "pipeline.funnel",
    "pipeline.intervals",
    "pipeline.model_card",
    "pipeline.judge_report",
    "pipeline.kept_out",
    "pipeline.negatives",
    "pipeline.outline",
    "pipeline.page",
    "pipeline.probes",
    "pipeline.success_by_n",
    "pipeline.readings",
    "pipeline.dataset_rows",
    "pipeline.selection",
    "pipeline.tradeoff",
    "pipeline.verdicts",
    "pipeline.writers",
}
"""What other members of its family may import; everything else in a family stands alone."""

HEAVY = {"torch", "transformers", "peft", "safetensors", "tokenizers", "accelerate"}
HEAVY_AT_THE_TOP = {
    "rewards.transformer",
    "rewards.tree_attention",
    "rewards.fitting",
    "rewards.vila",
    "rewards.vila_network",
    "llms.local",
}
HEAVY_INSIDE_A_FUNCTION = {"weights", "commands", "reward_models"}

LONG_FILES = {"store.py", "types.py", "weights.py", "cli.py", "llms/http.py", "rewards/transformer.py"}
"""May be longer than 450 lines: the run folder and ledger, all records, every layout of a model, all commands, HTTP
with all its failures."""


class Import(NamedTuple):
    module: str
    """Without `armap.` where it is ours."""
    ours: bool
    at_the_top: bool
    """Of the file, so that it is imported with it."""


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}

every_module = pytest.mark.parametrize("name", FILES)


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: write imports in full"
        module = node.module or ""
        inner = [f"{module}.{alias.name}" for alias in node.names]
        # What is imported from a package may be a module of it.
        return [name if name.removeprefix("armap.") in FILES else module for name in inner]
    return []


def imports(name: str) -> Iterator[Import]:
    functions = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for_types = [
        node for node in ast.walk(TREES[name]) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    inside = {node for part in (*functions, *for_types) for node in ast.walk(part)}
    for node in ast.walk(TREES[name]):
        for module in imported_names(node):
            yield Import(module.removeprefix("armap."), module.startswith("armap."), node not in inside)


def unit(module: str) -> str:
    return module.partition(".")[0]


def layer(module: str) -> int:
    (found,) = (i for i, units in enumerate(LAYERS) if unit(module) in units)
    return found


# Which way imports point


def test_every_unit_has_its_layer_and_every_layer_its_units():
    assert {unit(name) for name in FILES} - {""} == set().union(*LAYERS)


@every_module
def test_a_unit_imports_from_lower_layers_only(name):
    if not name:
        return
    for imported in imports(name):
        if imported.ours and unit(imported.module) != unit(name):
            assert layer(imported.module) < layer(name), f"armap.{name} imports armap.{imported.module}"


def member(module: str) -> str:
    """Return the member of its family that a module is, or is a part of: a member may be a folder."""
    return ".".join(module.split(".")[:2])


def shared_imports(name: str) -> set[str]:
    """Return the modules of its family, but for those of its own folder, that a module imports."""
    ours = {imported.module for imported in imports(name) if imported.ours}
    # The files of the service are one thing, which nothing else is like.
    return {module for module in ours if unit(module) == unit(name) != "serve" and member(module) != member(name)}


@every_module
def test_members_of_a_family_import_only_what_the_family_shares(name):
    assert shared_imports(name) <= SHARED


def test_what_a_family_shares_is_used_by_it():
    assert set().union(*map(shared_imports, FILES)) >= SHARED


@every_module
def test_torch_and_its_kin_are_imported_only_where_they_are_at_home(name):
    for imported in imports(name):
        if unit(imported.module) in HEAVY and not imported.ours:
            assert name in HEAVY_AT_THE_TOP or (name in HEAVY_INSIDE_A_FUNCTION and not imported.at_the_top)
        if imported.ours and imported.module in HEAVY_AT_THE_TOP:
            assert name in HEAVY_AT_THE_TOP or (name in HEAVY_INSIDE_A_FUNCTION and not imported.at_the_top)


@pytest.mark.parametrize("module", ["armap", "armap.cli"])
def test_starting_up_imports_no_torch(module):
    program = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "\n"


# What stands in a file


@pytest.mark.parametrize("name", [name for name in FILES if unit(name) in ("planners", "engines", "pipeline", "world")])
def test_no_planner_and_no_stage_names_an_environment(name):
    environments = {module.split(".")[1] for module in FILES if module.startswith("envs.")} - {"play", "own", "check"}
    assert {"game24", "toy"} <= environments
    named = re.compile(rf"(?i)\b({'|'.join(sorted(environments))}|game of 24)\b")
    assert named.findall(FILES[name].read_text("utf-8")) == []


def raised(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        error = node.exc.func if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
        if isinstance(error, ast.Name):
            yield error.id


def test_every_error_is_raised_somewhere():
    classes = [node for node in TREES["errors"].body if isinstance(node, ast.ClassDef)]
    bases = {base.id for node in classes for base in node.bases if isinstance(base, ast.Name)}
    leaves = {node.name for node in classes} - bases
    assert {"ConfigError", "ReplayError"} <= leaves
    assert leaves - {error for tree in TREES.values() for error in raised(tree)} == set()


@every_module
def test_no_error_is_swallowed_unseen(name):
    for node in ast.walk(TREES[name]):
        # What cleans up and raises again swallows nothing.
        again = isinstance(node, ast.ExceptHandler) and isinstance(node.body[-1], ast.Raise) and not node.body[-1].exc
        # What is shown with its traceback is not unseen.
        shown = isinstance(node, ast.ExceptHandler) and "traceback.print_exc()" in map(ast.unparse, node.body)
        if isinstance(node, ast.ExceptHandler) and not (again or shown):
            caught = {found.id for found in ast.walk(node.type) if isinstance(found, ast.Name)} if node.type else {""}
            assert not caught & {"", "Exception", "BaseException"}, f"armap.{name}, line {node.lineno}"


def test_files_are_short_enough_to_be_read_at_once():
    long = {str(path.relative_to(SOURCE)) for path in FILES.values() if len(path.read_text("utf-8").splitlines()) > 450}
    print("Allowed to be longer than 450 lines:", *sorted(LONG_FILES))
    assert long <= LONG_FILES


# What the README says


def test_the_tree_in_the_readme_names_every_unit_and_member_and_no_file_that_is_gone():
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    trees = [block for block in blocks if "src/armap/" in block]
    assert len(trees) == 1, "the README has one fenced block with the tree of src/armap/"
    named = Counter(re.findall(r"\b\w+(?:\.py\b|/)", trees[0].replace("src/armap/", "")))
    # What a member keeps in its own folder is its own business.
    shown = [path for name, path in FILES.items() if name and name.count(".") <= (unit(name) != "serve")]
    modules = [path for path in shown if path.name != "__init__.py"]
    folders = [path.parent for path in shown if path.name == "__init__.py"]
    there = Counter([path.name for path in modules] + [f"{path.name}/" for path in folders])
    assert there - named == Counter()
    assert {name for name in named if name.endswith(".py")} <= {path.name for path in ROOT.glob("*/**/*.py")}
