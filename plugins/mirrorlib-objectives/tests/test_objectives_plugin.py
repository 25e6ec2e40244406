"""The projectors, the baseline's objective, and what the plugin declares."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import silu

from mirrorlib.errors import UserError
from mirrorlib_objectives import plugin
from mirrorlib_objectives.config import IdentityConfig, LinearConfig, MLPConfig
from mirrorlib_objectives.identity import build_identity
from mirrorlib_objectives.linear import build_linear
from mirrorlib_objectives.mlp import build_mlp
from mirrorlib_objectives.none import NoAlignment

COMPONENTS = [*plugin.mirrorlib_objectives(), *plugin.mirrorlib_projectors()]


def test_linear_projector():
    projector = build_linear(LinearConfig(input_dim=5))
    x = torch.randn(3, 5)
    weight, bias = projector.linear.weight, projector.linear.bias
    torch.testing.assert_close(projector(x), x @ weight.T + bias)
    assert projector.output_dim == 1024 and projector(x).shape == (3, 1024)
    assert build_linear(LinearConfig(input_dim=5, dim=7, bias=False)).linear.bias is None
    with pytest.raises(UserError, match="projector linear: input_dim"):
        build_linear(LinearConfig())


def test_mlp_projector():
    projector = build_mlp(MLPConfig(input_dim=5, dim=7, hidden_dim=11))
    x = torch.randn(3, 5)
    first, second, last = (projector.layers[i] for i in (0, 2, 4))
    expected = last(silu(second(silu(first(x)))))
    torch.testing.assert_close(projector(x), expected)
    shapes = [tuple(layer.weight.shape) for layer in (first, second, last)]
    assert shapes == [(11, 5), (11, 11), (7, 11)] and projector.output_dim == 7
    torch.testing.assert_close(projector(x)[:1], projector(x[:1]))
    assert len(list(build_mlp(MLPConfig(input_dim=5, layers=2)).parameters())) == 4
    with pytest.raises(UserError, match="projector mlp: input_dim"):
        build_mlp(MLPConfig())
    with pytest.raises(ValidationError):
        MLPConfig(layers=1)


def test_identity_projector():
    projector = build_identity(IdentityConfig(input_dim=5))
    x = torch.randn(3, 5)
    assert projector(x) is x and projector.output_dim == 5
    assert not list(projector.parameters())
    with pytest.raises(UserError, match="projector identity: input_dim"):
        build_identity(IdentityConfig())
    with pytest.raises(ValidationError, match="dim"):
        IdentityConfig(input_dim=5, dim=5)


def test_no_alignment_is_a_zero_attached_to_nothing():
    loss = NoAlignment()(torch.ones(2, 3, requires_grad=True), torch.ones(2, 3))
    assert loss.value.item() == 0 and not loss.value.requires_grad
    assert not NoAlignment.uses_projectors and not list(NoAlignment().parameters())


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_components_name_what_exists(component):
    for reference in (component.build, component.config):
        module, name = reference.split(":")
        assert callable(getattr(import_module(module), name))


def test_listing_does_not_import_torch():
    code = "import sys, mirrorlib_objectives.plugin, mirrorlib_objectives.config; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
