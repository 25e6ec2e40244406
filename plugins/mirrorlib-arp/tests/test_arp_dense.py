"""The dense policy: its loss, its layouts, and closed-loop control of a point mass."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mirrorlib.errors import UserError
from mirrorlib_arp.dense import DenseConfig, DenseObservation, DensePolicy

STEPS = 32
PICTURE = 24
RADIUS = 0.06
HORIZON = 8
EXECUTED = 4

SMALL = DenseConfig(
    action_dim=2, horizon=HORIZON, state_dim=6, width=32, layers=2, heads=2, channels=8, dropout=0
)
"""Observes the goal as two further numbers of the state."""

EYES = SMALL.model_copy(update={"state_dim": 4, "cameras": 1})
"""Observes the goal in a picture."""


def picture_of(goal: Tensor) -> Tensor:
    """goal: (B, 2) in [0, 1]. Returns (B, 1, 3, H, W) uint8, a red blob on a dark ground."""
    centres = (torch.arange(PICTURE) + 0.5) / PICTURE
    distance = (centres[:, None] - goal[:, :1, None]) ** 2 + (centres - goal[:, 1:, None]) ** 2
    red = torch.exp(-distance / (2 * 0.06**2))
    return torch.stack([red, 0.2 * red, torch.zeros_like(red)], 1)[:, None].mul(255).byte()


def moved(state: Tensor, force: Tensor) -> Tensor:
    """A point of unit mass with friction. state: (B, 4) place and velocity. force: (B, 2)."""
    velocity = 0.8 * state[:, 2:] + 0.1 * force.clamp(-1, 1)
    return torch.cat([state[:, :2] + 0.2 * velocity, velocity], 1)


def controller(state: Tensor, goal: Tensor) -> Tensor:
    return (8 * (goal - state[:, :2]) - 4 * state[:, 2:]).clamp(-1, 1)


def start(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    numbers = torch.rand(rows, 4, generator=torch.manual_seed(seed))
    return torch.cat([numbers[:, :2], torch.zeros(rows, 2)], 1), 0.1 + 0.8 * numbers[:, 2:]


def demonstrations(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, T, 4), actions (B, T, 2) and goals (B, 2); motions are jogged, actions are not."""
    state, goal = start(rows, 0)
    generator = torch.manual_seed(1)
    states, actions = [], []
    for _ in range(STEPS):
        states.append(state)
        actions.append(controller(state, goal))
        state = moved(state, actions[-1] + 0.3 * torch.randn(rows, 2, generator=generator))
    return torch.stack(states, 1), torch.stack(actions, 1), goal


def observed(policy: DensePolicy, state: Tensor, goal: Tensor) -> DenseObservation:
    if policy.config.cameras:
        return DenseObservation(state, picture_of(goal))
    return DenseObservation(torch.cat([state, goal], 1))


def trained(config: DenseConfig, steps: int, rows: int = 64) -> DensePolicy:
    torch.manual_seed(0)
    policy = DensePolicy(config)
    states, actions, goals = demonstrations(512)
    full = torch.cat([states, goals[:, None].expand(-1, STEPS, -1)], -1)
    policy.normalise_by(actions, states if config.cameras else full)
    padded = torch.cat([actions, torch.zeros(len(actions), HORIZON, 2)], 1)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for _ in range(steps):
        row, time = torch.randint(len(states), (rows,)), torch.randint(STEPS, (rows,))
        future = time[:, None] + torch.arange(HORIZON)
        observation = observed(policy, states[row, time], goals[row])
        loss = policy.loss(observation, padded[row[:, None], future], future >= STEPS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return policy.eval()


def success(policy: DensePolicy, generator: torch.Generator | None = None) -> float:
    """Share of unseen scenes where the point ends within RADIUS of the goal."""
    state, goal = start(200, 2)
    for _ in range(STEPS // EXECUTED):
        chunk = policy.act(observed(policy, state, goal), generator)
        for action in chunk[:, :EXECUTED].unbind(1):
            state = moved(state, action)
    return float(((state[:, :2] - goal).norm(dim=1) < RADIUS).float().mean())


def example(config: DenseConfig, rows: int = 3) -> tuple[DensePolicy, DenseObservation, Tensor]:
    """A policy without zeros in it, what it observes, and actions."""
    torch.manual_seed(0)
    policy = DensePolicy(config).eval()
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    observation = DenseObservation(
        None if config.state_dim is None else torch.randn(rows, config.state_dim),
        torch.randint(256, (rows, config.cameras, 3, 20, 28), dtype=torch.uint8),
    )
    return policy, observation, torch.randn(rows, HORIZON, 2)


def test_reaches_a_goal_that_only_the_picture_shows() -> None:
    untrained = DensePolicy(EYES).eval()
    policy = trained(EYES, 300)
    assert success(untrained) < 0.1
    assert success(policy) > 0.8
    assert success(policy, torch.manual_seed(3)) > 0.8


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("state_dim", [None, 5])
@pytest.mark.parametrize("cameras", [0, 2])
def test_observes_states_and_pictures_and_cuts_the_horizon(
    chunk: int | None, state_dim: int | None, cameras: int
) -> None:
    if state_dim is None and not cameras:
        return
    changes = {"chunk": chunk, "state_dim": state_dim, "cameras": cameras}
    policy, observation, actions = example(SMALL.model_copy(update=changes))
    policy.loss(observation, actions).backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    acted = policy.act(observation)
    assert acted.shape == (3, HORIZON, 2)
    for row in range(3):
        one = DenseObservation(
            None if observation.state is None else observation.state[row : row + 1],
            None if observation.rgb is None else observation.rgb[row : row + 1],
        )
        torch.testing.assert_close(policy.act(one), acted[row : row + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sight", ["state", "first picture", "second picture"])
def test_everything_that_is_observed_matters(sight: str) -> None:
    policy, observation, _ = example(SMALL.model_copy(update={"cameras": 2}))
    assert observation.state is not None
    assert observation.rgb is not None
    state, rgb = observation.state.clone(), observation.rgb.clone()
    if sight == "state":
        state += 1
    else:
        rgb[:, 0 if sight == "first picture" else 1] //= 2
    before, after = policy.act(observation), policy.act(DenseObservation(state, rgb))
    assert not torch.isclose(before, after).all(-1).any()


def test_loss_is_the_normal_density_of_normalised_actions() -> None:
    policy, observation, actions = example(SMALL)
    policy.normalise_by(3 * torch.randn(50, 4, 2) + 1, torch.randn(50, 4, 6))
    scaled = (actions.double() - policy.action_mean) / policy.action_std
    mean = (policy.act(observation) - policy.action_mean) / policy.action_std
    given, contexts = policy._read(observation)
    slots = policy.transformer(policy.layout, given, contexts)
    raw = policy.transformer.predict(slots)["action"].double()[..., 2:]
    std = (0.5 * raw).exp().clamp(min=policy.config.min_std)
    torch.testing.assert_close(mean, policy.transformer.predict(slots)["action"][..., :2])
    expected = -torch.distributions.Normal(mean, std).log_prob(scaled).sum(-1).mean()
    assert policy.loss(observation, actions).item() == pytest.approx(expected.item(), rel=1e-4)


def test_bf16_autocast_gives_a_loss_near_that_of_float32() -> None:
    policy, observation, actions = example(EYES)
    exact = policy.loss(observation, actions)
    with torch.autocast("cpu", torch.bfloat16):
        rough = policy.loss(observation, actions)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)
    rough.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in policy.parameters())


@pytest.mark.parametrize("chunk", [None, 2])
def test_what_stands_behind_the_episodes_end_does_not_matter(chunk: int | None) -> None:
    policy, observation, actions = example(SMALL.model_copy(update={"chunk": chunk}))
    padding = torch.zeros(3, HORIZON, dtype=torch.bool)
    padding[0, 3:], padding[2, 7:] = True, True
    other = actions.masked_fill(padding[..., None], 9.0)
    loss = policy.loss(observation, actions, padding)
    torch.testing.assert_close(policy.loss(observation, other, padding), loss)
    assert not torch.isclose(policy.loss(observation, actions), loss)


def test_rows_spread_over_processes_give_the_loss_of_one() -> None:
    config = SMALL.model_copy(update={"dropout": 0.3, "cameras": 1})
    policy, observation, actions = example(config, rows=4)
    policy.train()
    padding, seed = torch.zeros(4, HORIZON, dtype=torch.bool), torch.arange(4)
    padding[1, 2:] = True
    whole = policy.loss(observation, actions, padding, seed)
    assert observation.state is not None
    assert observation.rgb is not None
    halves = [
        policy.loss(
            DenseObservation(observation.state[rows], observation.rgb[rows]),
            actions[rows],
            padding[rows],
            seed[rows],
        )
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_statistics_travel_with_the_weights_and_leave_constants_alone() -> None:
    policy, observation, _ = example(SMALL)
    data = torch.randn(100, 2) * torch.tensor([5.0, 0.0]) + 2
    policy.normalise_by(data)
    torch.testing.assert_close(policy.action_std, torch.stack([data[:, 0].std(), torch.ones(())]))
    copy = DensePolicy(SMALL).eval()
    copy.load_state_dict(policy.state_dict())
    assert torch.equal(copy.act(observation), policy.act(observation))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_dim": None}, "nothing is observed"),
        ({"width": 33}, "must be a multiple of heads"),
        ({"chunks": 1}, "Extra inputs"),
    ],
)
def test_a_wrong_configuration_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DenseConfig(**{**SMALL.model_dump(), **change})


def test_an_observation_that_does_not_fit_is_refused() -> None:
    policy, observation, _ = example(EYES)
    with pytest.raises(UserError, match=r"state must be \(B, 4\)"):
        policy.act(DenseObservation(torch.zeros(3, 5), observation.rgb))
    with pytest.raises(UserError, match=r"rgb must be \(B, 1, 3, H, W\)"):
        policy.act(DenseObservation(observation.state))
