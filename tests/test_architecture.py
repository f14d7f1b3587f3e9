"""Who may import whom. The folders are the levels: a module imports only from its own room and from rooms before it.

Imports inside functions count. Imports under `if TYPE_CHECKING` do not: they never run.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "glass_gym": "tensors model simulator worlds tasks env wrappers policy hub sb3 play export tools commands".split(),
    "training": "core.options config core data footage gma windows poses lma world decoding evaluation train".split(),
}
"""The rooms of a package, lowest first: folders, or modules that are a level of their own."""
TOP_LEVEL_FILES = {"glass_gym": 6, "training": 4}
"""Most Python files beside the folders of a package."""
MAY_IMPORT = {
    "glass_gym": ("glass_gym",),
    "training": ("glass_gym", "training"),
    "agents": ("glass_gym", "agents"),
    "examples": ("glass_gym",),
    "benchmarks": ("glass_gym", "training", "agents", "benchmarks"),
    "tests": ("glass_gym", "training", "agents", "benchmarks", "examples", "tests"),
}
PUBLIC = (
    "glass_gym",
    "glass_gym.policy",
    "glass_gym.sb3",
    "glass_gym.tasks",
    "glass_gym.wrappers",
    "glass_gym.wrappers.vector",
)
"""Modules that examples may import from."""


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, typing: bool = False) -> Iterator[tuple[int, str, str]]:
    """Line, module and name ("" for a whole module) of each import, relative ones resolved.

    With `typing`, those under TYPE_CHECKING as well.
    """
    package = module_name(path).split(".")[: None if path.name == "__init__.py" else -1]
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, module, alias.name) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing:
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of each import of ours; `from package import module` counts as the module."""
    for line, module, name in imports(path):
        if module.split(".")[0] in MAY_IMPORT:
            whole = f"{module}.{name}" if name else module
            yield line, whole if is_module(whole) else module


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room_of(module: str, package: str) -> str:
    """The room of a module, and "" for the package itself."""
    inside = module.removeprefix(package).lstrip(".") + "."
    found = [room for room in ROOMS[package] if inside.startswith(f"{room}.")]
    return max(found, key=len, default=inside.strip("."))


@pytest.mark.parametrize("package", ROOMS)
def test_each_folder_and_file_is_a_room(package):
    there = {room_of(module_name(path), package) for path in files(package)} - {""}
    assert there == set(ROOMS[package])


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_from_rooms_before_them(package):
    rooms = ROOMS[package]
    wrong = []
    for path in files(package):
        room = room_of(module_name(path), package)
        for line, module in imported_modules(path):
            if module.split(".")[0] != package or room == "":
                continue
            used = room_of(module, package)
            if used == "":  # the package itself: its names come from the rooms above
                upward = any(m == package and name not in ("", "__version__") for _, m, name in imports(path))
            else:
                upward = rooms.index(used) > rooms.index(room)
            if upward:
                wrong.append(f"{path.relative_to(ROOT)}:{line} ({room}) imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_in_a_circle():
    graph = {}
    for path in [*files("glass_gym"), *files("training"), *files("agents"), *files("benchmarks")]:
        name = module_name(path)
        graph[name] = {module for _, module in imported_modules(path)} - {name, "glass_gym"}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_who_may_import_whom(folder):
    wrong = []
    for path in files(folder):
        for line, module, _ in imports(path, typing=True):
            top = module.split(".")[0]
            if top in MAY_IMPORT and top not in MAY_IMPORT[folder]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_examples_use_public_names():
    wrong = []
    for path in files("examples"):
        for line, module, name in imports(path):
            if module.split(".")[0] == "glass_gym" and (module not in PUBLIC or name.startswith("_")):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_training_imports_itself_relatively():
    """It is `training` in a checkout, and glass_gym.training in a wheel."""
    wrong = []
    for path in files("training"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if any(name.split(".")[0] == "training" or name.startswith("glass_gym.training") for name in names):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_the_wheel_holds_all_packages_of_the_library_and_of_training():
    toml = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for folder, prefix in (("glass_gym", ()), ("training", ("glass_gym",))):
        for path in (ROOT / folder).rglob("__init__.py"):
            name = ".".join((*prefix, *path.parent.relative_to(ROOT).parts))
            assert f'"{name}"' in toml, name
    assert "benchmarks" not in toml.partition("packages = [")[2].partition("]")[0]


@pytest.mark.parametrize("package", ROOMS)
def test_few_files_beside_the_folders(package):
    there = sorted(path.name for path in (ROOT / package).glob("*.py"))
    assert len(there) <= TOP_LEVEL_FILES[package], there
