"""`proxy-log docs`: the documentation that comes with the package, always that of the version that runs."""

import re
from pathlib import Path

import click
from rich.markdown import Markdown

from proxy.cli.render import make_console
from proxy.errors import ProxyLogError

FOLDER = Path(__file__).parent.parent / "docs"


_LINK = re.compile(r"\]\(([^)]+)\.md\)")


def documents(folder: Path = FOLDER) -> dict[str, Path]:
    """The documents by name: the path below the folder without `.md`.

    They come in the order in which `index.md` names them, then those of the folder itself.
    """
    files = sorted(folder.rglob("*.md"), key=lambda file: (len(file.relative_to(folder).parts), file))
    known = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    index = known["index"].read_text(encoding="utf-8") if "index" in known else ""
    order = [name for name in ("index", *_LINK.findall(index)) if name in known]
    return {name: known[name] for name in [*order, *(name for name in known if name not in order)]}


def title(file: Path) -> str:
    """A document's first heading."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), file.stem)


def find(name: str, known: dict[str, Path]) -> Path:
    """The document of that name, of which the end or a part is enough where it is the only one.

    Raises:
        ProxyLogError: there is none, or more than one.
    """
    wanted = name.lower().removesuffix(".md")
    if wanted in known:
        return known[wanted]
    matching = [each for each in known if each.rpartition("/")[2] == wanted] or [
        each for each in known if wanted in each
    ]
    if len(matching) == 1:
        return known[matching[0]]
    if matching:
        raise ProxyLogError(f"{name!r} may be {', '.join(matching)}; name one of them")
    raise ProxyLogError(f"there is no document {name!r}; proxy-log docs lists them all")


@click.command()
@click.argument("name", required=False)
def docs(name: str | None) -> None:
    """List the documentation, or show the document NAME; a part of its name is enough.

    On a terminal it is laid out; otherwise it comes as Markdown: proxy-log docs tutorial > tutorial.md
    """
    known = documents()
    if name is None:
        width = max((len(each) for each in known), default=0)
        for each, file in known.items():
            click.echo(f"{each:{width}}  {title(file)}")
        return
    text = find(name, known).read_text(encoding="utf-8")
    console = make_console()
    if not console.is_terminal:
        click.echo(text, nl=False)
        return
    console.width = min(console.width, 100)  # long lines are hard to read
    console.print(Markdown(text), soft_wrap=False)
