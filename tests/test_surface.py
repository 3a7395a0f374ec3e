"""The names at the top: what users and scripts rely on."""

from __future__ import annotations

import subprocess
import sys

import formers


def test_the_table_of_models_answers_before_and_after_a_model_is_imported():
    code = (
        "import formers; a = formers.models(); import formers.models.gpt2; assert formers.models() == a and 'gpt2' in a"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_formers_imports_no_torch():
    code = "import sys, formers; formers.models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_hub_is_there_without_an_import_of_its_own():
    code = "import sys, formers; formers.hub.targets; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(formers, "buidl")
