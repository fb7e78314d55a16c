"""Copies: plan COPY and ADD, each into a layer: what is taken, from where, and what the layer depends on.

Between `workbench` and `steps`; `context` says what a word names, `copying` writes it. Ruled by the Dockerfile
reference, COPY and ADD; where that is silent, by what BuildKit does.
"""

import errno
import os
import posixpath
import re
from collections.abc import Mapping
from typing import Any

from minicontainer import files
from minicontainer.build import copying, file_modes, remotes
from minicontainer.build.context import Source, Tree, fingerprint
from minicontainer.build.dockerfile import Heredoc, Instruction, heredoc
from minicontainer.build.expansion import expand, expand_document
from minicontainer.build.patterns import parse_ignore
from minicontainer.build.progress import Step
from minicontainer.build.stages import Refused, State
from minicontainer.build.workbench import Earlier, Overlay, Plan, Work, Workbench
from minicontainer.errors import Error
from minicontainer.image import layers

NUMBERS = re.compile(r"\d+(:\d+)?")
Taken = list[tuple[Tree, Source]]


def plan(bench: Workbench, instruction: Instruction, work: Work, step: Step, earlier: Earlier) -> Plan:
    """The step of a COPY or ADD.

    Raises:
        Refused, Error: it cannot be done as it is written, or a source is not there.
    """
    variables, escape = work.state.variables, bench.scope.escape
    *words, destination = (expand(word, variables, escape) for word in instruction.arguments)
    copy = _destination(instruction, destination, work.state, escape)
    if len(words) > 1 and not copy.is_directory:
        raise Refused(f"with more than one source, the destination must be a directory: {destination}/")
    linked = instruction.has("link")
    if linked and copy.owner and not NUMBERS.fullmatch(copy.owner):
        raise Refused(f"--link with --chown={copy.owner}: the layer has no /etc/passwd; give numbers")
    name = expand(instruction.flag("from"), variables, escape)
    other = _other(bench, name, earlier) if name else ""
    if isinstance(other, Work):
        copy = copy._replace(keep_owner=True)
        chain = layers.chain_id(other.diff_ids) if other.layers else ""
        return Plan(
            inputs={"copy": copy._asdict(), "words": words, f"files of {name}": chain},
            make=lambda overlay: _copy_from(bench, name, other, words, copy, overlay, step),
            history=instruction.text,
            linked=linked,
        )
    taken = _taken(bench, instruction, words, copy, other or bench.request.context, variables)
    prints = [(source.name, fingerprint(tree, [source], bench.digests)) for tree, source in taken]

    def make(overlay: Overlay) -> None:
        def child() -> list[str]:
            copying.load_zstd(taken, copy)
            bench.enter(overlay)
            return copying.place(taken, copy)

        tell(step, copying.isolated(child))

    return Plan(inputs={"copy": copy._asdict(), "sources": prints}, make=make, history=instruction.text, linked=linked)


def _other(bench: Workbench, name: str, earlier: Earlier) -> str | Work:
    """What --from names: a directory, or the files of a stage or an image."""
    if name in bench.request.contexts:
        return bench.context(name)
    return earlier(name) or bench.image(name)


def _copy_from(
    bench: Workbench, name: str, other: Work, words: list[str], copy: copying.Copy, overlay: Overlay, step: Step
) -> None:
    with bench.changes(other) as theirs:

        def child() -> list[str]:
            tree = Tree(bench.mount(theirs))
            taken = [pair for word in words for pair in sources(tree, word, f"--from={name}", copy)]
            bench.enter(overlay)
            return copying.place(taken, copy)

        tell(step, copying.isolated(child))


def _taken(
    bench: Workbench,
    instruction: Instruction,
    words: list[str],
    copy: copying.Copy,
    directory: str,
    variables: Mapping[str, str],
) -> Taken:
    """The sources in the order of the words: files of the context, here-documents, and for ADD what is elsewhere."""
    taken: Taken = []
    documents = iter(instruction.heredocs)
    remote = _remote(instruction, words, variables, bench.scope.escape)
    for word, written in zip(words, instruction.arguments, strict=False):
        if instruction.heredocs and heredoc(written, bench.scope.escape):
            tree = _inline(bench, next(documents), variables)
            taken += sources(tree, "*", "the here-document", copy)
        elif instruction.keyword == "ADD" and remotes.is_remote(word):
            taken += _fetched(bench, word, remote, copy)
        else:
            taken += sources(bench.tree(directory), word, bench.told(directory), copy)
    return taken


def _remote(instruction: Instruction, words: list[str], variables: Mapping[str, str], escape: str) -> remotes.Asked:
    """What the flags ask of a URL; --checksum is of one."""
    checksum = expand(instruction.flag("checksum"), variables, escape)
    if checksum and (len(words) != 1 or not remotes.is_remote(words[0])):
        raise Refused("--checksum is for one source, a URL or a git repository")
    if checksum and not remotes.is_git(words[0]) and not re.fullmatch(r"sha256:[0-9a-f]{64}", checksum):
        raise Refused(f"--checksum={checksum}: it is sha256: and 64 digits")
    return remotes.Asked(
        checksum=checksum, keep_git_dir=instruction.has("keep-git-dir"), keep_packed=not instruction.has("unpack")
    )


def _fetched(bench: Workbench, url: str, asked: remotes.Asked, copy: copying.Copy) -> Taken:
    place = bench.lasting_place()
    if remotes.is_git(url):
        inside = remotes.fetch_git(url, place, asked)
        return sources(bench.opened(place, Tree(place)), inside or ".", url, copy)
    remotes.fetch_file(url, place, f"{bench.home.data}/cache/build/remote", asked)
    found = sources(bench.opened(place, Tree(place)), "*", url, copy)
    return [(tree, source._replace(is_packed=asked.keep_packed)) for tree, source in found]


def _inline(bench: Workbench, document: Heredoc, variables: Mapping[str, str]) -> Tree:
    """A directory with the here-document as its only file."""
    place = bench.lasting_place()
    content = document.content
    if document.expand:
        content = expand_document(content, variables, bench.scope.escape)
    files.write(f"{place}/{posixpath.basename(document.name)}", content.encode(), mode=0o644)
    os.chmod(f"{place}/{posixpath.basename(document.name)}", 0o644)
    return bench.opened(place, Tree(place))


def sources(tree: Tree, word: str, where: str, copy: copying.Copy = copying.Copy("/")) -> Taken:
    """What the word names in the tree.

    Raises:
        Error: nothing has that name.
    """
    try:
        exclude = parse_ignore("\n".join(copy.exclude))
        return [(tree, source) for source in tree.sources(word, exclude, copy.parents)]
    except (FileNotFoundError, NotADirectoryError) as error:
        why = "" if error.errno == errno.ENOENT and "dockerignore" not in str(error) else f": {error.strerror}"
        raise Error(f"{word} is not in {where}{why}") from None


def _destination(instruction: Instruction, destination: str, state: State, escape: str) -> copying.Copy:
    mode = expand(instruction.flag("chmod"), state.variables, escape)
    if mode and not file_modes.is_mode(mode):
        raise Refused(f"--chmod={mode}: it is an octal mode, like 755, or a symbolic one, like u=rwX,go=rX")
    path = posixpath.join("/", state.config.working_dir, destination)
    parents = instruction.has("parents")
    is_directory = destination.endswith("/") or posixpath.basename(destination) in ("", ".", "..")
    exclude: tuple[Any, ...] = instruction.flag_values("exclude")
    return copying.Copy(
        destination=posixpath.normpath(path).replace("//", "/"),
        is_directory=is_directory or parents,
        owner=expand(instruction.flag("chown"), state.variables, escape),
        mode=mode,
        extract=instruction.keyword == "ADD" and instruction.flag("unpack") != "false",
        parents=parents,
        exclude=tuple(expand(pattern, state.variables, escape) for pattern in exclude),
    )


def tell(step: Step, notices: list[str]) -> None:
    for notice in notices:
        step.output(f"{notice}\n".encode())
