"""glass-share: a world's or policy's card, with films; and both on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """examples:
  glass-share runs/mine/world.safetensors                       write the card and its films, to look at first
  hf auth login                                                 once
  glass-share runs/mine/world.safetensors me/mine --licence mit
  glass-share tennis me/tennis --film glass_demo/world.gif
  glass-share runs/mine/policy.safetensors me/mine-ppo

others then write: gymnasium.make("Glass-v0", checkpoint=glass_gym.from_hub("me/mine"))"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "glass-share",
        description="Write a card of a world or policy: README.md says what it is, its footage, licence, figures and\n"
        "local actions, which codes.gif shows. With REPO, publish the file and its card there.\n\n"
        "A world's file holds frames of its footage: publish it only if you may publish them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="a world's or policy's .safetensors file, or a bundled world")
    add("repo", nargs="?", default="", metavar="REPO", help="publish as this repository of the Hub, USER/NAME")
    add("--licence", default="", help="of the file, by the Hub's name: mit, cc-by-4.0, ... (default: not stated)")
    add("--film", type=Path, nargs="+", default=[], metavar="FILE", help="more to show: .gif, .mp4, .png")
    add("--private", action="store_true", help="make a new repository private")
    add("--out", type=Path, default=Path("glass_card"), help="folder of card and films (default: glass_card)")
    arguments = parser.parse_args(argv)
    try:
        share(arguments)
    except (ValueError, ImportError, OSError) as error:  # CheckpointError is a ValueError
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def share(arguments: argparse.Namespace) -> None:
    """Write films and card; publish them where a repository is given."""
    from glass_gym.hub import card, push_to_hub
    from glass_gym.tools.names import show_names

    out, about = arguments.out, (arguments.repo, arguments.licence)
    films = list(arguments.film)
    if "\n## Local actions\n" in card(arguments.file):  # a world
        show_names(arguments.file, out=out)
        films.append(out / "codes.gif")
    out.mkdir(parents=True, exist_ok=True)
    for film in arguments.film:
        if film.resolve() != (out / film.name).resolve():
            shutil.copyfile(film, out / film.name)
    (out / "README.md").write_text(card(arguments.file, *about, films), encoding="utf-8")
    print(f"card: {out / 'README.md'}")
    if arguments.repo:
        print(f"published: {push_to_hub(arguments.file, *about, films, arguments.private)}")
    else:
        print(f"to publish: glass-share {shlex.quote(arguments.file)} USER/NAME --licence LICENCE")


if __name__ == "__main__":
    sys.exit(main())
