"""The front door: ``import plurimask``."""

import pkgutil
import subprocess
import sys
import types

import pytest

import plurimask

HEAVY = ("torch", "matplotlib", "dask", "napari", "lightning", "monai", "numba")


def test_importing_plurimask_loads_nothing_heavy():
    asked = f"import sys, plurimask; print([name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_objects_can_be_had_without_torch():
    asked = "import sys; from plurimask import Instances, ProbabilisticInstances; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


@pytest.mark.parametrize("name", plurimask.__all__)
def test_every_public_name_is_there(name):
    assert not isinstance(getattr(plurimask, name), types.ModuleType)
    assert name in dir(plurimask)


def test_no_module_can_hide_a_public_name():
    modules = {module.name for module in pkgutil.iter_modules(plurimask.__path__)}
    assert modules.isdisjoint(plurimask.__all__)


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(AttributeError, match=r"its public names are .*segment"):
        _ = plurimask.segmant
