"""Paragraphs of an encyclopedia, without its markup: text for language models."""

from __future__ import annotations

import bz2
import html
import re

from fetch_models import NEWS, Wheels, read_file

ARTICLES = (
    *NEWS[:2],
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
)
# Shorter paragraphs are headings, entries of lists and captions.
_SHORTEST = 200
# Templates and tables lie in each other, so deep at most.
_DEPTH = 4
_NESTED = (r"\{\{[^{}]*\}\}", r"\{\|[^{}]*\|\}")
_GONE = (
    r"<!--.*?-->", r"<ref[^>]*/>", r"<ref[^>]*>.*?</ref>", r"<[^>]+>",
    r"\[\[(?:File|Image|Category)[^\[\]]*(?:\[\[[^\]]*\]\][^\[\]]*)*\]\]", r"'{2,}",
)  # fmt: skip
_LINKS = (r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]", r"\[https?://\S+ ?([^\]]*)\]")


def paragraphs(wheels: Wheels) -> list[str]:
    """The paragraphs of all articles, in order."""
    pages = bz2.decompress(read_file(wheels, ARTICLES)).decode()
    texts = re.findall("<text[^>]*>(.*?)</text>", pages, re.DOTALL)
    lines = (line.strip() for text in texts if not text.startswith("#REDIRECT") for line in _plain(text).splitlines())
    return [line for line in lines if len(line) > _SHORTEST and line[0] not in "*#|{!=:;"]


def _plain(text: str) -> str:
    """The text of an article as people read it."""
    text = html.unescape(text)
    for _ in range(_DEPTH):
        for pattern in _NESTED:
            text = re.sub(pattern, "", text, flags=re.DOTALL)
    for pattern in _GONE:
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    for pattern in _LINKS:
        text = re.sub(pattern, r"\1", text)
    return text
