"""Builds the documentation as a site, in the folder where the server finds it: `python -m scripts.site`.

mkdocs reads only docs/. Files that a page links to outside of it (SECURITY.md, deploy/, benchmark results) go
below repository/ in the site. Inline scripts and styles are moved to files, because the server's
Content-Security-Policy allows nothing inline.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SITE = ROOT / "server/page/documents"
DOCS = "docs"
BESIDE = "repository"  # the folder in the site for files outside of docs/
LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")
CODE = re.compile(r"^ *(```+).*?^ *\1 *$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


def main() -> None:
    """Build the site; with --strict, a broken link is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean"]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    raise SystemExit(subprocess.run([*command, *sys.argv[1:]], cwd=ROOT, env=environ, check=False).returncode)


def in_site(path: str) -> str:
    """The path in the site of a file of the repository."""
    return path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else f"{BESIDE}/{path}"


def in_repository(path: str) -> str:
    """The path in the repository of a file of the site."""
    return path.removeprefix(f"{BESIDE}/") if path.startswith(f"{BESIDE}/") else f"{DOCS}/{path}"


def linked(page: str, text: str) -> set[str]:
    """Files of the repository to which a page links, by their paths."""
    prose = CODE.sub("", text)
    links = [link.partition("#")[0] for link in LINK.findall(prose) if not re.match(r"[a-z]+:", link)]
    return {posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) for link in links if link}


def beside() -> dict[str, Path]:
    """Files outside of docs/ to which pages link, and files to which those link: path in the site -> file."""
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / DOCS).rglob("*.md")}
    found: dict[str, Path] = {}
    waiting = sorted(pages)
    while waiting:
        page = waiting.pop()
        for name in linked(page, (ROOT / page).read_text("utf-8")):
            path = ROOT / name
            if path.is_file() and not name.startswith(f"{DOCS}/") and in_site(name) not in found:
                found[in_site(name)] = path
                waiting += [name] if path.suffix == ".md" else []
    return found


# ---- mkdocs calls these ------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File  # imported late: an optional dependency

    for name, path in sorted(beside().items()):
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as they are in the site; a link to a folder, which has no page in the site, becomes its name."""
    here = in_repository(page.file.src_uri)
    parts: list[str] = []
    end = 0
    for code in CODE.finditer(markdown):
        parts += [_relinked(here, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _relinked(here, markdown[end:])])


def _relinked(here: str, text: str) -> str:
    def moved(found: re.Match[str]) -> str:
        name, hash_sign, anchor = found[1].partition("#")
        if not name or re.match(r"[a-z]+:", found[1]):
            return found[1]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), name))
        start = posixpath.dirname(in_site(here)) or "."
        return posixpath.relpath(in_site(target), start) + hash_sign + anchor

    def unlinked(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), found[2]))
        return found[1] if (ROOT / target).is_dir() else found[0]

    text = re.sub(r"\[([^\]]*)\]\(([^()\s#:]+)\)", unlinked, text)
    return LINK.sub(moved, text)


def on_post_page(output: str, page: Any, config: Any) -> str:
    return _outlined(output, Path(config.site_dir), page.file.dest_uri)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    if not template_name.endswith(".html"):
        return output_content
    return _outlined(output_content, Path(config.site_dir), template_name)


def on_post_build(config: Any) -> None:
    """Remove the site map: it has a date, and the bytes should be the same each time."""
    for name in ("sitemap.xml", "sitemap.xml.gz"):
        (Path(config.site_dir) / name).unlink(missing_ok=True)


def _outlined(html: str, site: Path, page: str) -> str:
    """The page with its scripts and styles moved to files."""
    start = posixpath.dirname(page) or "."

    def kept(content: str, ending: str) -> str:
        name = f"assets/page/{hashlib.sha256(content.encode()).hexdigest()[:12]}.{ending}"
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(content, "utf-8")
        return posixpath.relpath(name, start)

    html = SCRIPT.sub(lambda found: f'<script src="{kept(found[1], "js")}"></script>', html)
    return STYLE.sub(lambda found: f'<link rel="stylesheet" href="{kept(found[1], "css")}">', html)


if __name__ == "__main__":
    main()
