"""The rules of the house that a machine can keep. CONTRIBUTING.md says why they are there."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Floor by floor: what a folder may import.
BELOW = {
    "runtime": {"runtime"},
    "export": {"export", "runtime"},
    "devices": {"devices", "runtime"},
    "compress": {"compress", "export", "devices", "runtime"},
}
# Nothing is fetched at run time. What opens a port is named here: on this machine's loopback only.
NETWORK = {"aiohttp", "ftplib", "http.client", "http.server", "httpx", "huggingface_hub", "requests", "socket",
           "socketserver", "ssl", "urllib.request", "urllib3", "xmlrpc.client"}  # fmt: skip
MAY_OPEN_CONNECTIONS = {"devices/serve.py"}
PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
HEAVY = {
    "ai_edge_litert",
    "gguf",
    "jax",
    "litert_torch",
    "llama_cpp",
    "matplotlib",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "safetensors",
    "sklearn",
    "tokenizers",
    "torch",
    "torch_pruning",
    "transformers",
}
# Test files that are about no single source file, and source files without a test file of their own.
ABOUT_MORE = {
    "test_families.py",
    "test_house.py",
    "test_install.py",
    "test_page.py",
    "test_site_offline.py",
    "test_samples.py",
    "test_docs.py",
    "test_static_data.py",
    "test_static_npu.py",
    "test_webgpu.py",
}
TESTED_IN = {f"compress/cli_{part}.py": "test_cli.py" for part in ("lists", "look", "make", "options")}


def tracked(*patterns: str) -> list[str]:
    """The repository's files (not ignored ones), as POSIX paths."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted({name for name in listed if (ROOT / name).is_file()})


SOURCES = [name for name in tracked("*.py") if name.split("/")[0] in BELOW]
PYTHON = tracked("*.py")


def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def imports(node: ast.AST, *, in_functions: bool = True) -> Iterator[tuple[int, str]]:
    """Each import below `node` as (level, dotted name); `from a import b` gives `a.b`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((0, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            prefix = f"{child.module}." if child.module else ""
            yield from ((child.level, prefix + alias.name) for alias in child.names)
        elif in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, in_functions=in_functions)


def is_one_of(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def calls(node: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            yield ast.unparse(call.func), call


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(word.value) for word in call.keywords if word.arg == name), None)


def test_there_is_something_to_hold_the_rules_against():
    assert {name.split("/")[0] for name in SOURCES} == set(BELOW)


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_down(name: str):
    floor, depth = name.split("/")[0], name.count("/")
    for level, module in imports(tree(name)):
        assert not (level == 0 and is_one_of(module, {"edgepress"})), f"{module}: across folders imports are relative"
        assert level <= depth + 1, f"{module}: reaches out of the package"
        if level == depth + 1:
            assert module.split(".")[0] in BELOW[floor], f"{floor} must not import {module}"


def test_the_rules_see_an_import_that_goes_up():
    upwards = ast.parse("def f():\n    from ..compress.data import Data\n    from .. import compress")
    assert list(imports(upwards)) == [(2, "compress.data.Data"), (2, "compress")]
    assert list(imports(upwards, in_functions=False)) == []


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("runtime/")])
def test_the_runtime_needs_numpy_and_nothing_else_until_it_starts_an_engine(name: str):
    allowed = set(sys.stdlib_module_names) | {"numpy"}
    for level, module in imports(tree(name), in_functions=False):
        assert level or module.split(".")[0] in allowed, f"import {module} inside the function that needs it"


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith(("runtime/", "devices/"))])
def test_torch_stays_on_the_machine_that_compresses(name: str):
    assert not [module for _, module in imports(tree(name)) if is_one_of(module, {"torch", "transformers"})]


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_opens_a_connection_or_a_pickle(name: str):
    for _, module in imports(tree(name)):
        assert name in MAY_OPEN_CONNECTIONS or not is_one_of(module, NETWORK), f"{module} reaches the network"
        assert not is_one_of(module, PICKLES), f"{module} runs what it reads"
    for function, call in calls(tree(name)):
        if function == "torch.load":
            assert keyword(call, "weights_only") == "True", "torch.load without weights_only is a pickle"
        if function.endswith(".from_pretrained"):
            assert keyword(call, "local_files_only") == "True", "from_pretrained may download"
        assert keyword(call, "allow_pickle") in (None, "False")
        assert keyword(call, "trust_remote_code") in (None, "False")


@pytest.mark.parametrize("name", PYTHON)
def test_an_exception_is_caught_by_its_name(name: str):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = [c for c in caught if c is None or ast.unparse(c) in ("Exception", "BaseException")]
            assert not broad or isinstance(node.body[-1], ast.Raise), f"line {node.lineno} catches everything"


@pytest.mark.parametrize("name", SOURCES)
def test_settings_have_names(name: str):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg:
            assert node.args.kwarg.arg not in ("kwargs", "kw", "options"), f"line {node.lineno} takes any setting"


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_says_what_it_is_about(name: str):
    module = tree(name)
    assert ast.get_docstring(module) or not module.body, "expected a docstring"


@pytest.mark.parametrize("name", PYTHON)
def test_no_file_is_longer_than_400_lines(name: str):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 400


def test_each_source_file_has_its_test_file_and_each_test_file_its_source():
    stems = [Path(name).stem for name in SOURCES if not name.endswith("__init__.py") and name not in TESTED_IN]
    tests = {Path(name).name for name in tracked("tests/test_*.py")}
    assert {f"test_{stem}.py" for stem in stems} - tests == set(), "source files without a test"
    assert tests - ABOUT_MORE - {f"test_{stem}.py" for stem in stems} == set(), "tests of nothing"
    assert set(TESTED_IN) <= set(SOURCES)
    assert set(TESTED_IN.values()) <= tests


def test_the_root_holds_one_python_file_which_imports_nothing():
    assert [name for name in PYTHON if "/" not in name] == ["__init__.py"]
    assert list(imports(tree("__init__.py"), in_functions=False)) == []


def test_every_package_is_in_the_wheel():
    found = {Path(name).parent.as_posix() for name in PYTHON if name.endswith("__init__.py")}
    expected = {"edgepress" if folder == "." else "edgepress." + folder.replace("/", ".") for folder in found}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == expected
    assert {str(Path(name).parent).split("/")[0] for name in SOURCES} == set(BELOW)
    unlisted = [name for name in SOURCES if str(Path(name).parent) not in found]
    assert not unlisted, "these lie in a folder without __init__.py"


def test_every_data_file_is_in_the_wheel():
    globs = PYPROJECT["tool"]["setuptools"]["package-data"]
    shipped = {
        PurePosixPath(package.partition(".")[2].replace(".", "/")) / pattern
        for package, patterns in globs.items()
        for pattern in patterns
    }
    data = [name for name in tracked() if name.split("/")[0] in BELOW and not name.endswith(".py")] + ["py.typed"]
    for name in data:
        path = PurePosixPath(name)
        assert any(len(g.parts) == len(path.parts) and path.match(str(g)) for g in shipped), f"{name} is not shipped"


def test_what_is_installed_is_pinned_and_the_pins_keep_the_promised_ranges():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), f"{line}: expected an exact version"
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier)[2:]
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *(x for extra in project["optional-dependencies"].values() for x in extra)]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name != "edgepress":
            assert name in pins, f"{name} is not in constraints.txt"
            assert requirement.specifier.contains(pins[name]), f"{requirement} does not allow {pins[name]}"


def test_a_missing_library_is_named_with_an_extra_that_exists():
    extras = PYPROJECT["project"]["optional-dependencies"]
    for name in SOURCES:
        for function, call in calls(tree(name)):
            if function == "MissingExtra" and len(call.args) > 1 and isinstance(call.args[1], ast.Constant):
                assert call.args[1].value in extras, f"{name} line {call.lineno}"


def test_no_file_names_the_host_of_a_package_registry():
    hosts = [".".join(h) for h in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"),
                                   ("download", "pytorch", "org"), ("deb", "debian", "org"))]  # fmt: skip
    for name in tracked():
        content = (ROOT / name).read_bytes()
        assert not [host for host in hosts if host.encode() in content], name


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh process has after a statement."""
    code = f"{statement}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_the_runtime_costs_numpy_and_no_more():
    assert not loaded_by("import edgepress.runtime") & (HEAVY | {"click", "rich"})


def test_importing_the_devices_leaves_the_engines_and_torch_out():
    assert not loaded_by("import edgepress.devices") & HEAVY


def test_the_command_line_answers_before_anything_heavy_is_imported():
    if not (ROOT / "compress" / "cli.py").exists():
        pytest.skip("there is no command line yet")
    help_ = "from edgepress.compress.cli import main\ntry: main(['--help'])\nexcept SystemExit: print()"
    assert not loaded_by(help_) & HEAVY
