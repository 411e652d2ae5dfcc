"""What is asked of any built site, from its files alone: links that resolve, anchors, words for pictures, nothing fetched."""

from __future__ import annotations

import re
from pathlib import Path

from bs4 import BeautifulSoup


def faults(folder: Path) -> list[str]:
    """One sentence for each fault of the pages in a folder; [] for a sound site."""
    pages = {p.name: BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser") for p in sorted(folder.glob("*.html"))}
    anchors = {name: {tag["id"] for tag in soup.find_all(id=True)} for name, soup in pages.items()}
    found = []
    for name, soup in pages.items():
        ids = [tag["id"] for tag in soup.find_all(id=True)]
        found += [f"{name}: the id {one} stands twice" for one in {i for i in ids if ids.count(i) > 1}]
        for link in soup.find_all("a", href=True):
            target, _, fragment = link["href"].partition("#")
            if re.match(r"(https?|mailto):", target):
                continue
            if target.startswith("/") or ":" in target or (target and target not in pages):
                found.append(f"{name}: {link['href']} leads nowhere")
            elif fragment and fragment not in anchors[target or name]:
                found.append(f"{name}: {link['href']} has no such place")
        for image in soup.find_all("img"):
            if not image.get("alt", "").strip() or image["alt"].startswith("No description"):
                found.append(f"{name}: a picture without words")
            if not image["src"].startswith("data:image/"):
                found.append(f"{name}: {image['src'][:60]} would be fetched")
        links = [tag for tag in soup.find_all("link") if tag["rel"] != ["icon"] or not tag["href"].startswith("data:image/")]
        acting = [tag.name for tag in links + soup.find_all(["iframe", "object", "embed", "form", "base", "video", "audio", "svg"])]
        acting += [f"{tag.name} {key}" for tag in soup.find_all(True) for key in tag.attrs if key.startswith("on")]
        acting += ["script"] * (len(soup.find_all("script")) != 1)
        found += [f"{name}: holds {one}" for one in acting]
        if len(soup.find_all("h1")) != 1:
            found.append(f"{name}: {len(soup.find_all('h1'))} headings of level 1")
        if not soup.title.string or not soup.find("meta", attrs={"name": "description"})["content"].strip():
            found.append(f"{name}: no title or no description")
        found += [f"{name}: a table outside a box" for t in soup.find_all("table") if not t.find_parent(class_="box")]
        found += [f"{name}: a heading without an anchor: {h.get_text()}" for h in soup.select("main h2, main h3") if not h.get("id")]
    return found
