"""The walls of the house, read off the source: who imports whom, what is never called, how long things are."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "geomae"
LONGEST_FILE, LONGEST_FUNCTION = 450, 60
MOST_SINGLE_IMPORTERS = 35

# Imports go from a later floor to an earlier one, and within a package. Packages of one floor do not know each other.
FLOORS = (
    ("errors", "files", "randomness"),
    ("config", "sensors"),
    ("catalog",),
    ("rasters",),
    ("vectors",),
    ("tiles", "models", "metrics", "runtime", "tracking"),
    ("discovery",),
    ("encoders", "embeddings"),
    ("training",),
    ("evaluation",),
    ("prediction",),
    ("reports",),
    ("commands",),
    ("cli",),
)
# What stands on one floor and knows each other all the same.
NEIGHBOURS = {
    ("files", "errors"),
    ("encoders", "embeddings"),
    ("tiles", "models.contrast"),  # a batch carries its masks, and which tiles are negatives of which
    ("tiles", "models.masking"),
    ("config", "sensors"),
}
HEAVY = {"torch", "numpy", "pandas", "rasterio", "mlflow", "pydantic", "sklearn", "timm", "lightning_fabric"}


@cache
def modules():
    """Every module by its dotted name, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return found


def file_of(name):
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def without_typing_blocks(tree):
    """Nodes of a module that run; what stands under `if TYPE_CHECKING` does not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield node
        yield from without_typing_blocks(node)


@cache
def imports(name, running=False):
    """Modules that `name` imports, also inside functions; ours as the module that is meant, others as written."""
    tree, found = modules()[name], set()
    for node in without_typing_blocks(tree) if running else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: write imports in full"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules() else node.module)
    return found


def part(name):
    """The package or top-level module that one of our modules belongs to; '' for the package itself."""
    return name.split(".")[1] if "." in name else ""


FLOOR = {name: height for height, floor in enumerate(FLOORS) for name in floor}


def test_every_module_has_a_floor():
    assert {part(name) for name in modules() if part(name)} <= set(FLOOR)


def allowed(name, target):
    """Whether module `name` may import our module `target`."""
    own, other = part(name), part(target)
    if own == other or FLOOR[other] < FLOOR[own]:
        return True
    inner = target.removeprefix("geomae.")
    return any(pair in NEIGHBOURS for pair in ((own, other), (own, inner)))


def test_imports_go_down():
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        if part(name)
        for target in sorted(imports(name))
        if target in modules() and part(target) and not allowed(name, target)
    ]
    assert not wrong


def test_commands_do_not_import_each_other():
    """A command is a module, its report and checks; what two share is `options`, `session`, `run` or in a package."""
    wrong = []
    for name in (one for one in modules() if part(one) == "commands" and one.count(".") == 2):
        command = name.rsplit(".", 1)[-1]
        shared = {"options", "run", "session", command, f"{command}_report", f"{command}_checks"}
        names = {target.rsplit(".", 1)[-1] for target in imports(name) if target.startswith("geomae.commands")}
        wrong += [f"{command} imports {other}" for other in sorted(names - shared)]
    assert not wrong


def test_commands_import_nothing_by_a_string():
    """Else one could import another unseen."""
    dynamic = [
        f"{name}:{line}: {called}"
        for name, line, called, _ in calls()
        if part(name) == "commands" and called.rsplit(".", 1)[-1] in ("import_module", "__import__", "find_spec")
    ]
    assert not dynamic


def test_the_package_itself_imports_its_parts_when_they_are_asked_for():
    assert not {target for target in imports("geomae", True) if target.startswith("geomae")}


def test_no_circles():
    """Two modules that need each other are one."""
    graph = {name: {one for one in imports(name, True) if one in modules()} for name in modules()}

    def reach(start):
        seen, ahead = set(), [start]
        while ahead:
            for target in graph[ahead.pop()] - seen:
                seen.add(target)
                ahead.append(target)
        return seen

    circles = sorted(name for name in graph if name in reach(name))
    assert not circles


def test_every_module_can_be_imported():
    script = f"import importlib\nfor name in {sorted(modules())!r}:\n    importlib.import_module(name)"
    subprocess.run([sys.executable, "-W", "error", "-c", script], timeout=300, check=True)


def users(*packages):
    """Our modules that import one of these packages, at any place."""
    return {name for name in modules() if {target.split(".")[0] for target in imports(name)} & set(packages)}


def test_only_rasters_opens_rasters():
    assert {part(name) for name in users("rasterio", "osgeo", "rioxarray")} == {"rasters"}


def test_only_vectors_opens_vector_files():
    assert {part(name) for name in users("pyogrio", "fiona")} == {"vectors"}


def test_only_tracking_knows_mlflow():
    assert {part(name) for name in users("mlflow")} == {"tracking"}


def test_learning_libraries_live_where_models_are_judged():
    assert {part(name) for name in users("sklearn")} <= {"evaluation", "metrics", "reports"}
    assert {part(name) for name in users("skada")} <= {"evaluation"}


def test_models_stand_alone():
    own = [name for name in modules() if part(name) == "models"]
    known = {part(target) for name in own for target in imports(name) if target.startswith("geomae.")}
    assert known <= {"models", "config", "sensors", "errors", "files", "randomness"}


def test_torch_is_imported_nowhere_below_tiles():
    using = users("torch", "torchvision", "timm", "lightning_fabric", "safetensors")
    assert not [name for name in using if FLOOR[part(name)] < FLOOR["tiles"] or part(name) == "tracking"]


def test_help_loads_nothing_heavy():
    """Not by the clock, which a busy machine would decide, but by what is loaded."""
    script = (
        "import sys\n"
        "from geomae.cli import main\n"
        "sys.argv = ['geomae', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print('LOADED', *sys.modules, len(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    help_text, loaded = done.stdout.split("LOADED ")
    assert "pretrain" in help_text
    assert not HEAVY & set(loaded.split())
    assert int(loaded.split()[-1]) < 800  # modules; torch alone brings more


def loads(nodes):
    """Our modules and others that statements import as they run, those within functions left out."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module
        elif isinstance(node, ast.Try):
            yield from loads(node.body)


@cache
def loaded_by(name):
    """Roots of all that importing one of our modules imports, also through other modules of ours."""
    todo, seen = [name], set()
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo += [target for target in loads(modules()[one].body) if target in modules()]
    return {target.split(".")[0] for one in seen for target in loads(modules()[one].body)}


def test_a_command_begins_its_work_without_what_only_later_steps_need():
    """Figures are drawn after the work; tracking opens in a thread; torchgeo and skada are for those who name them."""
    for name in modules():
        assert not {"mlflow", "torchgeo", "skada", "geopandas"} & loaded_by(name), name
    drawing = {name for name in modules() if "matplotlib" in loaded_by(name)}
    reports = {f"geomae.commands.{one}_report" for one in ("compare_recon", "embed_pca", "gap", "probe")}
    assert {name for name in drawing if part(name) != "reports"} <= reports | {"geomae.commands.catalog_preview"}
    for name in (one for one in modules() if part(one) == "commands"):
        for node in modules()[name].body:
            draws_only = name == "geomae.commands.catalog_preview"
            if isinstance(node, ast.FunctionDef) and node.name == "run" and not draws_only:
                assert not drawing & set(loads(node.body)), f"{name}: import its report where it is drawn"


def test_fabric_comes_without_torchmetrics():
    """It would bring pyplot and most of scipy; `runtime.fabric` says how."""
    assert set(users("lightning_fabric")) == {"geomae.runtime.devices", "geomae.runtime.fabric"}  # FSDP: when named
    source = file_of("geomae.runtime.fabric").read_text(encoding="utf-8")
    script = (
        "import importlib.abc, sys\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"  # stands for Fabric, whose import takes seconds
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('lightning_fabric'):\n"
        "            sys.exit(sys.modules.get('torchmetrics', 'there') is not None)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    subprocess.run([sys.executable, "-c", script + source], timeout=60, check=True)


def test_importing_the_library_loads_nothing_heavy():
    script = "import sys, geomae; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert not HEAVY & set(done.stdout.split())


def calls():
    """Every call in the package as (module, line, what is called, its keywords)."""
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield name, node.lineno, ast.unparse(node.func), {key.arg: key.value for key in node.keywords}


def runs_code(called, keywords):
    """Whether a call can run what it is given; `query` is that of pandas."""
    last = called.rsplit(".", 1)[-1]
    if called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pd.eval", "joblib.load"):
        return True
    if last in ("Unpickler", "read_pickle", "to_pickle"):
        return True
    if last == "query":
        return "tree" not in called.lower()
    if called.startswith(("pickle.", "cloudpickle.", "dill.")):
        return not last.endswith("Error")
    return "shell" in keywords and ast.unparse(keywords["shell"]) != "False"


def test_nothing_from_a_file_is_ever_run():
    found = [f"{name}:{line}: {called}" for name, line, called, keywords in calls() if runs_code(called, keywords)]
    assert not found


def test_weights_are_read_as_weights_only_and_arrays_without_pickle():
    loads = [call for call in calls() if call[2] in ("torch.load", "np.load")]
    assert {called for _, _, called, _ in loads} == {"torch.load", "np.load"}
    for name, line, called, keywords in loads:
        key, value = ("weights_only", "True") if called == "torch.load" else ("allow_pickle", "False")
        assert key in keywords, f"{name}:{line}: {called} without {key}={value}"
        assert ast.unparse(keywords[key]) == value, f"{name}:{line}"
    assert not [f"{name}:{line}" for name, line, called, _ in calls() if called == "torch.save"]


def test_files_are_short():
    lengths = {name: len(file_of(name).read_text(encoding="utf-8").splitlines()) for name in modules()}
    too_long = {name: length for name, length in lengths.items() if length > LONGEST_FILE}
    assert not too_long, f"more than {LONGEST_FILE} lines; split them by idea"


def functions():
    """Every function and class of the package as (module, qualified name, node, whether it is public)."""

    def walk(name, prefix, body, public):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                seen = public and not node.name.startswith("_")
                yield name, f"{prefix}{node.name}", node, seen
                inner = seen and isinstance(node, ast.ClassDef)
                yield from walk(name, f"{prefix}{node.name}.", node.body, inner)

    for name, tree in modules().items():
        yield from walk(name, "", tree.body, True)


def test_functions_are_short():
    too_long = {
        f"{name}.{qualified}": node.end_lineno - node.lineno + 1
        for name, qualified, node, _ in functions()
        if not isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert not too_long, f"more than {LONGEST_FUNCTION} lines"


def test_everything_public_says_what_it_does():
    shown = [(f"{name}.{qualified}", node) for name, qualified, node, public in functions() if public]
    silent = [name for name, node in shown if not ast.get_docstring(node)]
    silent += [name for name, tree in modules().items() if not ast.get_docstring(tree)]
    assert not silent


def test_every_argument_is_typed():
    bare = [
        f"{name}.{qualified}: {argument.arg}"
        for name, qualified, node, _ in functions()
        if not isinstance(node, ast.ClassDef)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if argument.annotation is None and argument.arg not in ("self", "cls")
    ]
    assert not bare


def test_few_modules_serve_one_other_alone():
    """A fragment that one module imports is a part of it, unless it is an idea of its own."""
    packages = {name for name in modules() if file_of(name).name == "__init__.py"}
    importers = {name: [] for name in modules() if name not in packages and part(name) != "commands"}
    for name in modules():
        for target in imports(name) if name not in packages else ():
            if target in importers and target != name:
                importers[target].append(name)
    assert len([name for name, by in importers.items() if len(by) == 1]) <= MOST_SINGLE_IMPORTERS


PRIVATE_WORDS = {"asked", "dealt", "whose", "apart", "told", "hopeless", "knowing"}
OF_CLASSES_AND_FILES = {"found", "words", "outcome", "request", "sides"}


def words_of(name):
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def defined_names(tree):
    """Names that a module defines: functions, classes, parameters, variables and fields."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def test_names_are_those_of_the_field():
    """No private vocabulary: whoever knows the field knows what a name means."""
    wrong = sorted(
        {
            f"{name}: {one}"
            for name, tree in modules().items()
            for one in defined_names(tree)
            if words_of(one) & PRIVATE_WORDS
        }
    )
    files = [name for name in modules() if words_of(name.rsplit(".", 1)[-1]) & (PRIVATE_WORDS | OF_CLASSES_AND_FILES)]
    classes = [
        f"{name}.{qualified}"
        for name, qualified, node, _ in functions()
        if isinstance(node, ast.ClassDef) and words_of(node.name) & {"found"}
    ]
    assert not [*wrong, *files, *classes]


@pytest.mark.parametrize("name", ["load_model", "load_encoder", "open_catalog", "open_embeddings"])
def test_the_names_that_a_notebook_uses_are_there(name):
    import geomae

    assert callable(getattr(geomae, name))
    assert name in geomae.__all__
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        geomae.load_modle  # noqa: B018
