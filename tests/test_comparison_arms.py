"""Records become arms: what is paired, what is refused, what a reader is told."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from comparison_records import record, suite
from scipy import stats

from mirrorlib.comparison import compare
from mirrorlib.comparison.outcomes import compared
from mirrorlib.errors import UserError

SUCCESS = "eval/success_rate"
RECOGNITION = "eval/recognition_accuracy"


def noted(comparison) -> str:
    return "\n".join(comparison.notes)


def test_arms_are_paired_by_seed():
    records = suite({"none": [0.5, 0.6, 0.7, 0.8, 0.9, 0.4], "pull": [0.6, 0.7, 0.9, 0.9, 0.9]})
    comparison = compare(reversed(records))
    assert (comparison.baseline, comparison.arms) == ("none", ("none", "pull"))
    gap = comparison.differences[SUCCESS]["pull"]
    assert gap.values == pytest.approx({0: 0.1, 1: 0.1, 2: 0.2, 3: 0.1, 4: 0.0})
    expected = stats.ttest_rel([0.6, 0.7, 0.9, 0.9, 0.9], [0.5, 0.6, 0.7, 0.8, 0.9])
    interval = expected.confidence_interval(0.95)
    assert (gap.low, gap.high) == pytest.approx((interval.low, interval.high))
    assert comparison.summaries[SUCCESS]["none"].n == 6
    assert "none" not in comparison.differences[SUCCESS]
    assert comparison.notes == ()
    assert comparison.tests == ()


def test_the_order_is_baseline_then_as_told_then_by_name():
    records = suite({arm: [0.5] for arm in ("none", "b", "a", "z", "c")})
    assert compare(records, "c", arms=["z", "b"]).arms == ("c", "z", "b", "a", "none")


def test_a_single_arm_needs_no_baseline():
    comparison = compare(suite({"pull": [0.5, 0.6]}))
    assert (comparison.baseline, comparison.differences[SUCCESS]) == ("pull", {})


def test_no_record_is_refused():
    with pytest.raises(UserError, match="no records: nothing to compare"):
        compare([])


@pytest.mark.parametrize("wanted", [None, "pul"])
def test_an_unknown_baseline_is_refused_with_the_arms(wanted: str | None):
    with pytest.raises(UserError, match="choose --baseline among: pull, push"):
        compare(suite({"pull": [0.5], "push": [0.5]}), wanted)


def test_two_recipes_of_one_arm_and_seed_are_refused():
    one = record("none", 3, {SUCCESS: 0.5}, recipe={"train.steps": 10}, recipe_sha="aa")
    other = record("none", 3, {SUCCESS: 0.5}, recipe={"train.steps": 20}, recipe_sha="bb")
    with pytest.raises(UserError, match=r"'none', seed 3: .*aa and bb: train.steps is 10 and 20"):
        compare([one, other])


def test_of_identical_recipes_the_newest_counts():
    old = record("none", 3, {SUCCESS: 0.5}, finished="2026-01-01T00:00:00+00:00")
    new = replace(old, metrics={SUCCESS: 0.7}, finished="2026-01-02T00:00:00+00:00")
    comparison = compare([new, old])
    assert comparison.summaries[SUCCESS]["none"].values == {3: 0.7}
    assert (
        noted(comparison) == "none, seed 3: run more than once with one recipe; the newest counts"
    )


def test_an_arm_that_mixes_recipes_is_refused():
    one = record("none", 0, {SUCCESS: 0.5}, recipe={"seed": 0, "train.steps": 10})
    other = record("none", 1, {SUCCESS: 0.5}, recipe={"seed": 1, "train.steps": 20})
    with pytest.raises(UserError, match=r"train\.steps is 10 in seed 0 and 20 in seed 1"):
        compare([one, other])


def test_recipes_as_mlflow_has_them_are_the_same():
    """It keeps text, and an older version knew fewer options."""
    one = record("none", 0, {}, recipe={"train.steps": 10, "data.clip_cameras": ["wrist"]})
    other = record("none", 1, {}, recipe={"train.steps": "10", "data.clip_cameras": "['wrist']"})
    third = record("none", 2, {}, recipe={"train.steps": 10, "data.new": 1})
    assert compare([one, other, third]).notes == ()


def test_arms_that_share_too_little_are_told():
    recipe = {
        "train.steps": 10,
        "source.train": 20,
        "objective.name": "a",
        "evaluation.split": "val",
    }
    other = recipe | {"train.steps": 20, "objective.name": "b", "evaluation.split": "test"}
    records = [record("none", 0, {}, recipe=recipe), record("pull", 0, {}, recipe=other)]
    assert noted(compare(records)) == (
        "the arms differ in what they should share: evaluation.split, train.steps"
    )


def test_versions_and_missing_partners_are_told():
    records = suite({"none": [0.5, 0.6], "pull": [0.5, 0.6, 0.7]})
    records[0] = replace(records[0], versions={"mirrorlib": "0.9"})
    assert compare(records).notes == (
        "the records were made with several versions of mirrorlib: 0.9, 1.0",
        "pull: seed 2 has no partner in none; no difference there",
    )


def test_what_is_no_number_is_left_out_and_told():
    comparison = compare(suite({"none": [0.5] * 6, "pull": [0.1, math.nan, 0.3, 0.4, 0.5, 0.6]}))
    assert comparison.differences[SUCCESS]["pull"].n == 5
    assert noted(comparison) == f"{SUCCESS} of pull is no number in seed 1: left out there"


def test_the_trained_space_is_no_ground_to_compare_arms():
    trained = "eval/recall_at_1_u2e"
    records = [record(arm, 0, {trained: 0.5}) for arm in ("cka", "infonce")]
    comparison = compare([*records, record("none", 0, {})], "cka")
    assert comparison.summaries[trained].keys() == {"cka", "infonce"}
    assert trained not in comparison.differences
    assert compared("eval/probe_recall_at_1_u2e")
    assert not any(map(compared, ("cost/train_seconds", "eval/recognition_accuracy_chance")))


def test_an_arm_may_lack_a_metric():
    probe = "eval/probe_recall_at_1_u2e"
    comparison = compare([record("none", 0, {probe: 0.5}), record("pull", 0, {SUCCESS: 1.0})])
    assert comparison.differences == {probe: {}}


def confirmatory(seeds: int = 12, **changes):
    generator = np.random.default_rng(4)
    draws = generator.normal(0.7, 0.05, (2, 2, seeds)) + np.array([0, 0.04])[:, None, None]
    return [
        record(arm, seed, {SUCCESS: success, RECOGNITION: recognition}, **changes)
        for arm, (successes, recognitions) in zip(("none", "infonce"), draws, strict=True)
        for seed, (success, recognition) in enumerate(zip(successes, recognitions, strict=True))
    ]  # fmt: skip


def test_p_values_answer_the_question_asked_in_advance():
    comparison = compare(confirmatory(), question="infonce")
    tests = {test.metric: test for test in comparison.tests}
    assert list(tests) == [SUCCESS, RECOGNITION]
    p = [stats.ttest_1samp(list(comparison.differences[m]["infonce"].values.values()), 0).pvalue
         for m in tests]  # fmt: skip
    assert [test.t for test in tests.values()] == pytest.approx(p)
    assert [test.t_holm for test in tests.values()] == pytest.approx(
        [min(1, 2 * p[0]) if p[0] < p[1] else max(p[0], 2 * p[1]),
         min(1, 2 * p[1]) if p[1] < p[0] else max(p[1], 2 * p[0])]
    )  # fmt: skip
    assert all(0 < test.flips <= test.flips_holm <= 1 for test in tests.values())


def test_p_values_are_for_that_arm_alone():
    third = record("pull", 0, {SUCCESS: 0.5})
    assert compare(confirmatory()).tests == ()
    assert compare(confirmatory(), "infonce", question="infonce").tests == ()
    comparison = compare([*confirmatory(), third], question="infonce")
    assert {test.arm for test in comparison.tests} == {"infonce"}


def test_a_few_seeds_have_no_p_value():
    for test in compare(confirmatory(seeds=4), question="infonce").tests:
        assert math.isnan(test.t) and math.isnan(test.flips)
