"""The type that layers compute in, for training and for whoever only uses a model."""

import subprocess
import sys

import pytest
import torch

from limner.precision import autocast, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_what_is_named_is_taken(name, dtype):
    assert choose_precision(name, CPU) is dtype
    with autocast(dtype, CPU):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype is dtype


def test_whoever_uses_a_model_loads_no_training_code():
    training = "('limner.optimise', 'limner.methods', 'limner.networks', 'pydantic')"
    code = f"import sys, limner.inference; print([name for name in sys.modules if name.startswith({training})])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
