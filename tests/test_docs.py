"""What the documentation shows is run; what it links to is there."""

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)#\s]+)(#[^)\s]+)?\)")


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)


def links(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return LINK.findall(text)


def run(text, name, monkeypatch):
    """The names that a block of code defines, as a module that others can import."""
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(text, name, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, _ in links(page):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_headings_lead_somewhere(page):
    for target, anchor in links(page):
        if anchor and target.endswith(".md"):
            titles = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(encoding="utf-8"), re.M)
            slugs = {"#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs


def test_the_method_of_the_extending_page(monkeypatch):
    method, test, *_ = blocks("extending.md")
    run(method, "my_methods", monkeypatch)
    page = run(test, "test_my_methods", monkeypatch)
    complaint = re.search(r"^crossing worms: .*$", (ROOT / "docs/extending.md").read_text(), re.M).group()
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        page.test_three_class()
    page.check_method(page.ThreeClass(), page.UNet(width=4, depth=2), cases=("touching blobs", "empty"))


def test_the_posterior_of_the_extending_page(monkeypatch):
    _, _, posterior, test, cross = blocks("extending.md")
    imports = (
        "from collections.abc import Iterator, Sequence\n"
        "import torch\nfrom torch import Tensor, nn\n"
        "from plurimask.methods import Embedding\nfrom plurimask.networks import UNet\n"
        "from plurimask.protocols import Context, Network, NetworkFactory, Outputs, Posterior\n"
        "from plurimask.testing import check_posterior, drawn\n"
    )
    page = run(imports + posterior + test + cross, "test_my_posteriors", monkeypatch)
    page.test_joint_ensemble()
    assert page.cross.owners().max() == 2
