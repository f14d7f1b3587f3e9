"""Who may call whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVEL = {
    "config": 0, "convert": 0, "rows": 0, "versions": 0, "action_space": 0, "pictures": 0, "randomness": 0,
    "render": 0, "remote": 1, "drawing": 1, "checks": -1, "headers": 0, "locks": 0, "ale_tennis": 0, "geometry": 1,
    "networks": 2, "glass": 3, "tracking": 3.2, "token_glass": 3.5, "drawn": 0, "peers": 0, "time_left": 0,
    "build": 4, "tasks": 4, "checkpoint": 5, "simulator": 5, "starts": 5.5, "core": 6, "gym_mixin": 7,
    "policy": 7, "vector_env": 8, "wrappers": 8, "env": 9, "sb3": 9, "demo": 9, "play": 9, "bench": 10,
    "export": 8, "notebook": 10,
}  # fmt: skip


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "glass_gym").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_imports_downward_only(path):
    room = path.relative_to(ROOT / "glass_gym").parts[0].removesuffix(".py")
    for name in imports(path):
        assert name.split(".")[0] not in ("training", "agents", "tests")
        if name.startswith("glass_gym.") and room != "__init__":
            used = name.split(".")[1]
            assert used == room or LEVEL[used] < LEVEL[room], f"{path.name} imports {name}"


def test_training_is_shipped_whole_and_imports_itself_relatively():
    """It is `training` in a checkout, and glass_gym.training in a wheel."""
    toml = (ROOT / "pyproject.toml").read_text()
    for package in (ROOT / "training").rglob("__init__.py"):
        name = ".".join(("glass_gym", *package.parent.relative_to(ROOT).parts))
        assert f'"{name}"' in toml, name
    for path in (ROOT / "training").rglob("*.py"):
        assert not any(name.split(".")[0] == "training" for name in imports(path)), path


def test_training_and_agents_never_see_each_other():
    for path in (ROOT / "training").rglob("*.py"):
        assert not any(name.split(".")[0] == "agents" for name in imports(path)), path
    for path in (ROOT / "agents").rglob("*.py"):
        assert not any(name.split(".")[0] == "training" for name in imports(path)), path
