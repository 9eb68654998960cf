"""How the code is built: who may import whom, how long things are, how they are called.

A rule that no test keeps is a wish; these are the rules of docs/design.md that a program can read.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "plurimask"
MODULES = sorted(PACKAGE.rglob("*.py"))
WRITTEN = (".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cff", ".json", ".cfg", "Makefile", "run")

# A module may import from its own row and from the rows above it.
LAYERS = (
    ("instances", "selection", "symmetry", "uncertainty", "platt", "probabilistic", "listening"),
    ("protocols",),
    ("ops",),
    ("metrics", "agglomerate", "networks", "windows"),
    ("methods", "posteriors", "data", "familiarity"),
    ("model", "testing"),
    ("rescale", "predict", "pixelwise", "decoding", "semi_supervised", "fitting", "training", "tuning"),
    (
        "ledger",
        "batch",
        "pairing",
        "assessment",
        "honesty",
        "comparison",
        "evaluation",
        "large",
        "proofreading",
        "active",
        "export",
    ),
    ("cli", "__main__", "words"),
)
RANKS = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

FORBIDDEN = {"pred", "gt", "inst", "res", "tmp", "utils", "manager", "handler", "processor"}
LONGEST_MODULE, LONGEST_BODY, USUAL_BODY = 400, 50, 30

Function = ast.FunctionDef | ast.AsyncFunctionDef


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, Function)]


def public_functions(path: Path) -> list[Function]:
    """Functions of the module and methods of its classes whose names do not begin with an underscore."""
    module = tree(path)
    scopes = [module, *(node for node in ast.walk(module) if isinstance(node, ast.ClassDef))]
    inside = [node for scope in scopes for node in scope.body if isinstance(node, Function)]
    return [node for node in inside if not node.name.startswith("_")]


def body_length(function: Function) -> int:
    """Lines of the body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_parts(path: Path) -> set[str]:
    """The parts of plurimask that a module imports anywhere, imports for type checkers included."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "plurimask":
            names |= {f"plurimask.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("plurimask.")}


def names_given(path: Path) -> set[str]:
    """Every name that a module gives: functions, classes, arguments, variables and attributes that it sets."""
    names = set()
    for node in ast.walk(tree(path)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def words(name: str) -> set[str]:
    """snake_case and CamelCase names, cut into lower-case words."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_the_checks_see_what_they_are_for():
    source = "def f(a, b, tmp_path=1):\n    'Doc.'\n    x = 1\n    return x\n"
    function = ast.parse(source).body[0]
    assert body_length(function) == 2
    assert words("ImageHandler") & FORBIDDEN == {"handler"}
    assert words("tmp_path") & FORBIDDEN == {"tmp"}
    assert not words("predict_result_instances_gtk") & FORBIDDEN
    assert len(MODULES) > 5


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_imports_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    assert part in RANKS, f"{part} has no place in LAYERS; give it one"
    above = {other for other in imported_parts(path) if RANKS.get(other, len(LAYERS)) > RANKS[part]}
    assert not above, f"{shown(path)} imports from {sorted(above)}, which stand above it"


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


def test_functions_are_short():
    lengths = {f"{shown(path)}:{f.name}": body_length(f) for path in MODULES for f in functions(path)}
    too_long = {name: length for name, length in lengths.items() if length > LONGEST_BODY}
    assert not too_long
    usual = sum(length <= USUAL_BODY for length in lengths.values())
    assert usual >= 0.9 * len(lengths)


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_names_are_words_of_the_field(path):
    given = {*names_given(path), path.stem}
    assert not {name for name in given if words(name) & FORBIDDEN}


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_public_functions_are_annotated(path):
    for function in public_functions(path):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        bare = {a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")}
        assert not bare, f"{function.name}: {bare} have no type"
        assert function.returns is not None, f"{function.name} does not say what it returns"


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_arguments_are_few_and_named(path):
    for function in public_functions(path):
        positional = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        positional = positional[1:] if positional[:1] in (["self"], ["cls"]) else positional
        assert len(positional) <= 3, f"{function.name} takes {positional}; make the later ones keyword-only"
        assert function.args.kwarg is None, f"{function.name} takes **{function.args.kwarg.arg}; name the arguments"


def test_no_path_of_a_machine_is_written_down():
    places = "|".join(["work", "root", "home", "opt", "Users"])
    pattern = re.compile(rf"(?<![\w.\-/])/(?:{places})/")
    folders = [ROOT / name for name in ("src", "tests", "docs", "examples", "experiments", "benchmarks", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    written = [path for path in files if path.name.endswith(WRITTEN) and "__pycache__" not in path.parts]
    found = {str(path.relative_to(ROOT)) for path in written if pattern.search(path.read_text(encoding="utf-8"))}
    assert not found
