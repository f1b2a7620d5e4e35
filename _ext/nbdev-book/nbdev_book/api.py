"""Links between the cell that defines a name, the prose that mentions it and the reference page that documents it.

* ``.. nbdev-module:: package.module`` makes a reference page: a table of the module's names, then their docstrings.
* ``.. nbdev-modules:: package`` makes a table of the reference pages below its own: what each module is for, and which
  of its names the package itself offers.
* An exported cell carries a quiet mark that leads to its entry on that page.
* Every entry leads back to the cell that defines it.
* A name in backticks leads to its entry, as in nbdev.
* Names in code lead there too, through sphinx-codeautolink, which is told what hidden cells import.
* A type in a signature leads to what the name means in its module: `Tensor` may be another library's.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docstrings import prepare_docstring
from sphinx.util.docutils import SphinxDirective
from sphinx_codeautolink.extension.block import CodeBlockAnalyser
from sphinx_codeautolink.extension.directive import PrefaceMarker

from .project import Project


def exports(env: BuildEnvironment) -> dict[str, tuple[str, str]]:
    """Where each exported name is defined: its full name -> (document, anchor)."""
    if not hasattr(env, "nbdev_exports"):
        env.nbdev_exports = {}
    return env.nbdev_exports


def note_exports(env: BuildEnvironment, docname: str, names: list[str]) -> None:
    """Remember the names that a notebook exports. The anchor follows once the cell turns out to be visible."""
    forget_exports(None, env, docname)
    exports(env).update({name: (docname, "") for name in names})


def note_names(env: BuildEnvironment, names: dict[str, str]) -> None:
    """Remember, while a document is read, what a short name in its prose stands for."""
    env.temp_data.setdefault("nbdev_names", {}).update(names)


def forget_exports(app: Sphinx | None, env: BuildEnvironment, docname: str) -> None:
    """Before a document is read again, drop what its last reading noted."""
    env.nbdev_exports = {name: place for name, place in exports(env).items() if place[0] != docname}


def reference(
    target: str, content: nodes.Node, env: BuildEnvironment, *, is_guess: bool = False
) -> nodes.Node:
    """A link to a documented name. A guess that finds nothing stays plain text; anything else is a warning."""
    return addnodes.pending_xref(
        "", content, refdomain="py", reftype="obj", reftarget=target, refdoc=env.docname,
        refexplicit=True, refwarn=not is_guess, nbdev_guess=is_guess,
    )  # fmt: skip


def keep_wrong_guess_plain(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node
):
    """Answer Sphinx's question what to do about a link that leads nowhere."""
    return content if node.get("nbdev_guess") else None


class MarkExportedCells(SphinxTransform):
    """Give every exported cell an anchor for each name and a mark; tell the code linker what the names mean."""

    default_priority = 7

    def apply(self, **kwargs) -> None:
        for cell in list(self.document.findall(nodes.container)):
            notes = cell.get("cell_metadata", {}).get("nbdev", {})
            if cell.get("nb_element") != "cell_code":
                continue
            if notes.get("preface"):
                cell.insert(0, PrefaceMarker("\n".join(notes["preface"]), "next"))
            if notes.get("module"):
                self.add_anchors(cell, notes["names"])
                self.add_mark(cell, notes["module"], notes["names"])

    def add_anchors(self, cell: nodes.container, names: list[str]) -> None:
        for name in names:
            cell["ids"].append(name)
            self.document.ids[name] = cell
            exports(self.env)[name] = (self.env.docname, name)

    def add_mark(self, cell: nodes.container, module: str, names: list[str]) -> None:
        source = next(
            (part for part in cell.children if part.get("nb_element") == "cell_code_source"), None
        )
        if source is not None:
            here = [name for name in names if name.startswith(f"{module}.")]
            link = reference((here or [module])[0], nodes.literal(text=module), self.env)
            mark = nodes.paragraph("", "", nodes.Text("in "), link, classes=["nbdev-mark"])
            source += mark


class LinkBackticks(SphinxTransform):
    """Link a name in backticks, when this page exports, documents or imports it, and any dotted name of the library."""

    default_priority = 8

    def apply(self, **kwargs) -> None:
        dotted = Project.load(self.app.confdir).package + "."
        known = self.env.temp_data.get("nbdev_names", {})
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext().removesuffix("()")
            target = known.get(name, name if name.startswith(dotted) else None)
            if target and not _is_inside(
                literal, (nodes.reference, nodes.title, addnodes.pending_xref)
            ):
                literal.replace_self(reference(target, literal.deepcopy(), self.env, is_guess=True))


def _is_inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node is not None:
        if isinstance(node, kinds):
            return True
        node = node.parent
    return False


def meaning(name: str, module: str, package: str) -> str | None:
    """The full name of what a bare name stands for in a module, or None where it is no public name of the package.

    Sphinx takes any documented name with the same end, in whatever module.
    """
    here = sys.modules.get(module)
    home = getattr(getattr(here, name, None), "__module__", None) or ""
    if home.split(".")[0] != package:  # constants do not know where they come from
        home = module
    return f"{home}.{name}" if name in getattr(sys.modules.get(home), "__all__", ()) else None


class ResolveTypes(SphinxPostTransform):
    """Let types in signatures and parameters name what the source means, before Sphinx looks for them."""

    default_priority = 5  # ahead of Sphinx's own search for references

    def run(self, **kwargs) -> None:
        package = Project.load(self.app.confdir).package
        for node in list(self.document.findall(addnodes.pending_xref)):
            name, module = node["reftarget"], node.get("py:module")
            if node.get("refdomain") == "py" and module and name.isidentifier():
                if target := meaning(name, module, package):
                    # a type may be documented as a constant, such as State = tuple[Tensor, ...]
                    node["reftarget"], node["reftype"] = target, "obj"
                    node.attributes.pop("refspecific", None)  # which asks for a class
                else:
                    node.replace_self(node.children)


class ModuleReference(SphinxDirective):
    """The reference page of a module: a table of its public names, then every docstring, constants last."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        module = importlib.import_module(name)
        _forget_overloads(name)
        # nbdev lists constants first; a reader looks for functions and classes
        members = sorted(module.__all__, key=lambda member: not callable(getattr(module, member)))
        lines = [f".. automodule:: {name}", "", f".. currentmodule:: {name}", ""]
        lines += [".. autosummary::", "   :nosignatures:", ""]
        lines += [f"   {member}" for member in members]
        note_names(self.env, {member: f"{name}.{member}" for member in module.__all__})
        for member in members:
            lines += ["", *_entry(member, getattr(module, member))]
        holder = nodes.Element()
        self.state.nested_parse(
            StringList(lines, source=f"<nbdev-module {name}>"), self.content_offset, holder
        )
        return holder.children


class ModulesTable(SphinxDirective):
    """The pages below this one: each module with its purpose, and those of its names that the package offers."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        front = importlib.import_module(package)
        offered = {name: getattr(front, name) for name in dir(front) if not name.startswith("_")}
        lines = [
            ".. list-table::",
            "   :header-rows: 1",
            "",
            "   * - module",
            "     - what it is for",
            "     - start with",
        ]
        for page in self.config.external_site_map[self.env.docname].child_files():
            module = importlib.import_module(f"{package}.{page.rpartition('/')[2]}")
            purpose = inspect.getdoc(module).splitlines()[0]
            start = [
                n
                for n, value in offered.items()
                if getattr(value, "__module__", "") == module.__name__
            ]
            names = ", ".join(f":py:obj:`{name} <{module.__name__}.{name}>`" for name in start)
            lines += [
                f"   * - :doc:`{module.__name__} </{page}>`",
                f"     - {purpose}",
                f"     - {names}",
            ]
        holder = nodes.Element()
        self.state.nested_parse(
            StringList(lines, source=f"<nbdev-modules {package}>"), self.content_offset, holder
        )
        return holder.children


def _forget_overloads(module: str) -> None:
    """Let autodoc show the signature that is run, as written: the overloads above it say the same to type checkers."""
    analyzer = ModuleAnalyzer.for_module(module)
    analyzer.analyze()
    analyzer.overloads.clear()


def _entry(name: str, member: object) -> list[str]:
    """The autodoc directive for a member. Autodoc's own choice leaves out constants without a docstring."""
    if inspect.isclass(member):
        return [f".. autoclass:: {name}", "   :members:", "   :member-order: bysource"]
    if inspect.isroutine(member):
        return [f".. autofunction:: {name}"]
    return [f".. autodata:: {name}"] + ["   :no-value:"] * (len(repr(member)) > 60)


def signature_as_written(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
):
    """Show annotations as the source has them: `ArrayLike`, not the union of eight types that it stands for."""
    function = getattr(obj, "__init__", None) if what == "class" else obj
    try:
        definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError):  # generated code, as in a dataclass, has no source
        return None
    if not isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    arguments = definition.args
    if what in {"class", "method"} and arguments.args and arguments.args[0].arg in {"self", "cls"}:
        del arguments.args[0]
    returned = definition.returns if what != "class" else None
    quoted = isinstance(returned, ast.Constant) and isinstance(returned.value, str)
    return f"({ast.unparse(arguments)})", returned.value if quoted else returned and ast.unparse(
        returned
    )


def drop_docstring_of_type(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """A constant without a docstring of its own would show that of `int` or `dict`."""
    if what == "data" and lines == prepare_docstring(type(obj).__doc__ or ""):
        lines.clear()


def skip_undescribed_fields(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Python describes a field of a named tuple as "Alias for field number 0"; the class says what it is."""
    return True if (inspect.getdoc(obj) or "").startswith("Alias for field number") else None


def link_to_chapters(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Let each entry of a reference page say which chapter explains it, with a link to the defining cell."""
    for label in doctree.findall(nodes.field_name):
        if label.astext() == "Variables":  # Sphinx's word for what NumPy's docstrings call so
            label[:] = [nodes.Text("Attributes")]
    for signature in doctree.findall(addnodes.desc_signature):
        full = f"{signature.get('module')}.{signature.get('fullname')}"
        if place := exports(app.env).get(full):
            target, anchor = place
            uri = app.builder.get_relative_uri(docname, target) + (f"#{anchor}" if anchor else "")
            title = nodes.emphasis(text=app.env.titles[target].astext())
            link = nodes.reference("", "", title, refuri=uri, internal=True)
            signature += nodes.inline(
                "", "", nodes.Text("explained in "), link, classes=["nbdev-origin"]
            )


def accept_untitled_sections() -> None:
    """sphinx-proof and sphinx-exercise make sections without titles, on which codeautolink 0.19 pops an empty stack."""

    def depart_section(self: CodeBlockAnalyser, node: nodes.section) -> None:
        if self.title_stack and isinstance(node[0], nodes.title):
            self.title_stack.pop()

    CodeBlockAnalyser.depart_section = depart_section


def setup(app: Sphinx) -> None:
    for extension in (
        "sphinx.ext.autodoc",
        "sphinx.ext.autosummary",
        "sphinx.ext.napoleon",
        "sphinx_codeautolink",
    ):
        app.setup_extension(extension)
    accept_untitled_sections()
    app.add_directive("nbdev-module", ModuleReference)
    app.add_directive("nbdev-modules", ModulesTable)
    app.add_transform(MarkExportedCells)
    app.add_transform(LinkBackticks)
    app.add_post_transform(ResolveTypes)
    app.connect("autodoc-process-signature", signature_as_written)
    app.connect(
        "autodoc-process-docstring", drop_docstring_of_type, priority=100
    )  # before napoleon rewrites it
    app.connect("autodoc-skip-member", skip_undescribed_fields)
    app.connect("env-purge-doc", forget_exports)
    app.connect("missing-reference", keep_wrong_guess_plain)
    app.connect("doctree-resolved", link_to_chapters)
