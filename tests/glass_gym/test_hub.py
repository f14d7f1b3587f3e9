"""Sharing: cards, and the Hugging Face Hub, by a local stand-in of its HTTP interface."""

import base64
import hashlib
import http.server
import json
import sys
import threading
from urllib.parse import unquote, urlsplit

import gymnasium as gym
import pytest

huggingface_hub = pytest.importorskip("huggingface_hub")

import glass_gym  # noqa: E402
from glass_gym import hub  # noqa: E402
from glass_gym.tools import share  # noqa: E402
from glass_gym.worlds.checkpoint import CheckpointError, load_world, save_world  # noqa: E402

SHA = "0" * 40


class StandIn(http.server.BaseHTTPRequestHandler):
    """The Hub's interface, as far as it is used here. `server.files`: "user/name/file" -> bytes."""

    protocol_version = "HTTP/1.1"

    def answer(self, body=b"", status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        files, told = self.server.files, self.server.told
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/").split("/revision/")[0]
            names = [name.removeprefix(f"{repo}/") for name in files if name.startswith(f"{repo}/")]
            found = [{"rfilename": n, "size": told.get(f"{repo}/{n}", len(files[f"{repo}/{n}"]))} for n in names]
            status = 200 if names else 404
            return self.answer({"id": repo, "sha": SHA, "siblings": found, "tags": [], "downloads": 0}, status)
        repo, _, name = path.strip("/").partition(f"/resolve/{SHA}/")
        self.server.asked.append(name)
        content = files[f"{repo}/{name}"]
        return self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=SHA)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            about = json.loads(body)
            self.server.made.append(about)
            return self.answer({"url": f"{self.server.address}/{about['organization']}/{about['name']}"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repo = path.removeprefix("/api/models/").split("/preupload/")[0].split("/commit/")[0]
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[f"{repo}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
        return self.answer({"success": True, "commitOid": SHA, "commitUrl": f"{repo}/commit/{SHA}"})

    def log_message(self, *_):
        """Log nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.files, server.told, server.asked, server.made = {}, {}, [], []
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.api = huggingface_hub.HfApi(server.address, "hf_test")
    download = server.api.hf_hub_download
    server.api.hf_hub_download = lambda *args, **kwargs: download(*args, cache_dir=tmp_path / "cache", **kwargs)
    monkeypatch.setattr(hub, "_api", lambda: server.api)
    yield server
    server.shutdown()


@pytest.fixture
def file(tmp_path, tiny_world):
    tiny_world.provenance = {"data": "/home/me/my|videos", "argv": ["videos"], "minutes": {"gma": 1.5}}
    return save_world(tmp_path / "mine.safetensors", tiny_world)


def test_a_world_goes_to_the_hub_and_comes_back(server, file, tmp_path, capsys):
    passport = {"rollouts": 2, "step_100": {"present": 0.5, "control": 1.0, "codes_read_back": 0.25, "other": 3}}
    file.with_name("passport.json").write_text(json.dumps(passport), encoding="utf-8")
    assert share.main([str(file), "me/mine", "--licence", "mit", "--out", str(tmp_path / "card")]) == 0
    assert f"published: {server.address}/me/mine" in capsys.readouterr().out
    assert server.made[0]["name"] == "mine"
    assert set(server.files) == {"me/mine/world.safetensors", "me/mine/README.md", "me/mine/codes.gif"}
    card = server.files["me/mine/README.md"].decode()
    assert card == (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: glass-gym\n") and 'license: "mit"' in card.split("---")[1]
    for part in ("![codes](codes.gif)", "my\\|videos", "| 1      | swing", "after 100 steps", "25.0%", "gma 1.5"):
        assert part in card
    assert "/home" not in card
    path = glass_gym.from_hub("me/mine")
    assert server.asked and set(server.asked) == {"world.safetensors"}  # nothing else of it is fetched
    env = gym.make("glass_gym:Glass-v0", checkpoint=path)
    env.reset(seed=0)
    assert load_world(path).code_names == load_world(file).code_names
    env.close()


def test_a_policy_goes_to_the_hub_and_comes_back(server, tiny_world, tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    from glass_gym.policy import load_policy, save_policy
    from glass_gym.sb3 import GlassVecEnv

    env = GlassVecEnv("Glass-v0", num_envs=2, checkpoint=tiny_world, obs_type="position")
    model = sb3.PPO("MlpPolicy", env, n_steps=8, device="cpu")
    file = save_policy(tmp_path / "any.safetensors", model, "ppo", {"env": "<b>mine"})
    glass_gym.push_to_hub(file, "me/ppo")
    assert "&lt;b>mine" in server.files["me/ppo/README.md"].decode()
    assert load_policy(glass_gym.from_hub("me/ppo", revision="main")).model.action_space == model.action_space


def test_what_is_hostile_or_missing_says_so(server, file, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="no/where: cannot be fetched"):
        glass_gym.from_hub("no/where")
    with pytest.raises(CheckpointError, match=r"cannot be fetched .*refused"):
        glass_gym.from_hub("me/mine", api=huggingface_hub.HfApi("http://127.0.0.1:9"))  # nobody listens there
    server.files["me/zip/policy.zip"] = b"pickle"
    with pytest.raises(CheckpointError, match=r"has no world.safetensors or policy.safetensors"):
        glass_gym.from_hub("me/zip")
    server.files["me/large/world.safetensors"] = b"x"
    server.told["me/large/world.safetensors"] = hub.LARGEST + 1
    with pytest.raises(CheckpointError, match="at most"):
        glass_gym.from_hub("me/large")
    server.told["me/large/world.safetensors"] = 3
    with pytest.raises(CheckpointError, match="not the 3 bytes"):
        glass_gym.from_hub("me/large")
    server.files["me/bad/world.safetensors"] = file.read_bytes()[:-9]
    with pytest.raises(CheckpointError, match=r"not a whole .safetensors file"):
        gym.make("Glass-v0", checkpoint=glass_gym.from_hub("me/bad"))
    assert server.asked.count("policy.zip") == 0
    with pytest.raises(CheckpointError, match="cannot be published"):
        glass_gym.push_to_hub(file, "not/a/name")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"text")
    assert share.main([str(broken), "me/broken"]) == 1
    assert "not a whole .safetensors file" in capsys.readouterr().err and not server.made


def test_a_card_of_strange_facts_or_films_says_so(server, file, tiny_world, tmp_path):
    for text in ("5", '{"step_100": {"present": 1}}', '{"step_100": null}', "{"):
        file.with_name("passport.json").write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"passport.json"):
            hub.card(file)
    file.with_name("passport.json").unlink()
    for provenance in ({"minutes": 3}, {"minutes": {"gma": "long"}}, {"argv": 5}):
        tiny_world.provenance = provenance
        with pytest.raises(CheckpointError, match="as glass-train writes"):
            hub.card(save_world(tmp_path / "strange.safetensors", tiny_world))
    films = [tmp_path / folder / "my film.gif" for folder in "ab"]
    assert "(my%20film.gif)" in hub.card(file, films=films)
    with pytest.raises(CheckpointError, match="names that differ"):
        glass_gym.push_to_hub(file, "me/mine", films=films)
    films[0].parent.mkdir()
    films[0].write_bytes(b"GIF89a")
    assert share.main([str(file), "--film", str(films[0]), "--out", str(tmp_path / "card")]) == 0
    assert (tmp_path / "card" / "my film.gif").read_bytes() == b"GIF89a"  # the card is looked at before it is published
    assert share.main([str(file), "--film", str(films[1]), "--out", str(tmp_path / "card")]) == 1


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"glass-gym\[hub\]"):
        glass_gym.from_hub("me/mine")
