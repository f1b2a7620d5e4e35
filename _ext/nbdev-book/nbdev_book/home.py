"""Where the book lives: one setting, `git_url`, and everything that follows from it.

While it is empty, nothing points anywhere: no button on the pages, no command that installs from an address. With the
address of a repository, the pages get their buttons and their own address, and `sync --write` writes it into the files
that cannot ask for it: README, the front page, and the first cell of each notebook.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config

from .project import Project, find_notebooks

# What stands between `<!-- home: NAME -->` and `<!-- home -->`, without an address and with one.
BLOCKS = {
    "copy": (
        "In your copy of the book, which you may have as an archive or as a clone of somebody's repository:",
        "```bash\ngit clone {url}\ncd {name}\n```\n\nThen:",
    ),
    "install": (
        "```bash\npip install .  # in your copy of the book\n```",
        "```bash\npip install git+{url}\n```",
    ),
    "buttons": (
        "The button at the top of each chapter downloads its notebook.",
        "The buttons at the top of each chapter open the notebook in Colab, or download it.",
    ),
}
_BLOCK = re.compile(r"(<!-- home: (\w+) -->\n)(?:.*?\n)??(<!-- home -->)", re.DOTALL)
_CELL = re.compile(r'^(HOME = ").*?(")', re.MULTILINE)


@dataclass(frozen=True)
class Home:
    """The address of the book's repository; empty while there is none."""

    url: str
    branch: str = "main"

    def __post_init__(self):
        if self.url and not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w.-]+", self.url):
            raise ValueError(
                f"git_url must be empty or like https://github.com/NAME/BOOK, got {self.url!r}"
            )

    @classmethod
    def of(cls, project: Project) -> Home:
        return cls(project.repository, project.branch)

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def site(self) -> str:
        """Where GitHub's Pages would show the book; empty for other hosts."""
        host, path = urlsplit(self.url).netloc, urlsplit(self.url).path.strip("/")
        owner, _, name = path.partition("/")
        return f"https://{owner.lower()}.github.io/{name}/" if host == "github.com" else ""

    def write(self, text: str) -> str:
        """The text of a Markdown file with its marked passages as they must be."""

        def passage(match: re.Match) -> str:
            passages = BLOCKS[match[2]]
            body = passages[1].format(url=self.url, name=self.name) if self.url else passages[0]
            return f"{match[1]}{body}\n{match[3]}"

        return _BLOCK.sub(passage, text)

    def write_notebook(self, text: str) -> str:
        """The text of a notebook whose first code cell knows the address."""
        notebook = json.loads(text)
        first = next((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), None)
        source = "".join(first["source"]) if first else ""
        settled = _CELL.sub(rf"\g<1>{self.url}\2", source)
        if settled == source:  # whatever program has written the file, and however it breaks lines
            return text
        first["source"] = settled.splitlines(keepends=True)
        return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def rewritten(project: Project) -> dict[Path, str]:
    """The files that name the address, as they must be, without those that are so already."""
    home = Home.of(project)
    wanted = {
        path: home.write(path.read_text("utf8"))
        for path in (project.root / "README.md", project.root / "index.md")
        if path.exists()
    }
    wanted |= {
        path: home.write_notebook(path.read_text("utf8")) for path in find_notebooks(project)
    }
    return {path: text for path, text in wanted.items() if text != path.read_text("utf8")}


def configure(app: Sphinx, config: Config) -> None:
    """Give the pages their buttons and their address, if the book has one."""
    home = Home.of(Project.load(app.confdir))
    if home.url:
        config.html_theme_options |= {
            "repository_url": home.url,
            "repository_branch": home.branch,
            "repository_provider": "github" if "github" in home.url else "gitlab",
            "use_repository_button": True,
            "launch_buttons": {"colab_url": "https://colab.research.google.com"},
        }
    if home.site:
        config.html_baseurl = home.site
        config.notfound_urls_prefix = urlsplit(home.site).path


def setup(app: Sphinx) -> None:
    """Called by the extension's own setup. A map of the site needs to know where the site is."""
    if Home.of(Project.load(app.confdir)).site:
        app.setup_extension("sphinx_sitemap")
        app.config.sitemap_url_scheme = "{link}"
    app.connect("config-inited", configure, priority=100)
