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


def headed(title):
    """The one block of the extending page that begins with this comment."""
    (block,) = [block for block in blocks("extending.md") if block.startswith(f"# {title}\n")]
    return block


def complaint(case):
    """What the extending page says that the check says."""
    return re.search(rf"^{case}: .*$", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.M).group()


def test_what_the_extending_page_quotes_is_there():
    name = "# methods/semantic.py\n"
    quotes = [block.removeprefix(name) for block in blocks("extending.md") if block.startswith(name)]
    source = (ROOT / "src" / "plurimask" / "methods" / "semantic.py").read_text(encoding="utf-8")
    assert len(quotes) > 2 and all(quote in source for quote in quotes)


def test_the_methods_of_the_extending_page(monkeypatch):
    page = run(headed("test_semantic.py"), "test_semantic", monkeypatch)
    with pytest.raises(AssertionError, match=re.escape(complaint("touching blobs"))):
        page.test_semantic()
    page.check_method(page.Semantic(), page.UNet(width=4, depth=2), cases=["empty"])
    run(headed("my_methods.py"), "my_methods", monkeypatch)
    page = run(headed("test_my_methods.py"), "test_my_methods", monkeypatch)
    with pytest.raises(AssertionError, match=re.escape(complaint("crossing worms"))):
        page.test_three_class()
    page.check_method(page.ThreeClass(), page.UNet(width=4, depth=2), cases=["touching blobs", "empty"])


def test_the_posterior_of_the_extending_page(monkeypatch):
    posterior, test, cross = blocks("extending.md")[-3:]
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
