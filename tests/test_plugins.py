"""Discovery: each plugin alone, whatever it does, and nothing lost without a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import mirrorlib
from mirrorlib.errors import ComponentError, UserError
from mirrorlib.hookspecs import KINDS, RunInfo
from mirrorlib.plugins import HOOKS, STATUSES, Plugins, Row
from mirrorlib.recipe import load_recipe
from mirrorlib.registry import Offer, Registry

GOOD = """
from pydantic import BaseModel
from mirrorlib import Check, Component, hookimpl

class Config(BaseModel, extra="forbid"):
    size: int = 2

def build(config):
    return (__name__, config.size)

@hookimpl
def mirrorlib_objectives():
    return [Component("NAME", build=f"{__name__}:build", config=f"{__name__}:Config", summary="s")]
"""
WATCHING = """
@hookimpl
def mirrorlib_run_started(run):
    print("started", run.name)

@hookimpl
def mirrorlib_evaluated(report):
    raise SystemExit("no more")

@hookimpl
def mirrorlib_checks():
    return [Check("fine", f"{__name__}:fine"), Check("broken", f"{__name__}:broken"),
            Check("absent", "nowhere:x")]

def fine():
    return None

def broken():
    return "mend me"
"""
CHOOSY = """
@hookimpl
def mirrorlib_checks():
    return [Check("drawing", f"{__name__}:draw", slow=True),
            Check("spare", f"{__name__}:spare", needed_by=()),
            Check("spare drawing", f"{__name__}:spare", needed_by=("objective push",), slow=True)]

def draw():
    return "ran drawing"

def spare():
    return "ran what nothing needs"
"""


def good(name: str) -> str:
    return GOOD.replace("NAME", name)


def only(plugins: Plugins) -> Row:
    (row,) = plugins.rows
    return row


def test_nothing_installed(site) -> None:
    registry = Registry(site.discover())
    assert registry.plugins.rows == ()
    assert [registry.offers(kind) for kind in KINDS] == [[]] * len(KINDS)
    with pytest.raises(ComponentError, match="no plugin is installed: install one"):
        registry.find("objective", "infonce")


def test_a_good_plugin(site) -> None:
    module = site.add("mirrorlib-good", good("pull"))
    registry = Registry(site.discover())
    row = only(registry.plugins)
    assert (row.distribution, row.version, row.entry_point) == ("mirrorlib-good", "1.0", "plugin")
    assert (row.status, row.reason) == ("ok", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site.folder))
        assert registry.build("objective", "pull", size=5) == (module, 5)
        assert registry.config_model("objective", "mirrorlib_good:pull")().size == 2
        with pytest.raises(
            UserError, match=r"^objective 'pull': size: must be a whole .*; siz: un"
        ):
            registry.build("objective", "pull", size="big", siz=1)


@pytest.mark.parametrize(
    ("source", "status", "reason"),
    [
        ("raise RuntimeError('operator torchvision::nms\\ndoes not exist')", "broken",
         "RuntimeError: operator torchvision::nms does not exist"),
        ("def f(:", "broken", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(3)", "broken", "SystemExit: 3"),
        ("import no_such_module", "broken", "ModuleNotFoundError: No module named"),
        (good("x").replace("return [", "return 1; ["), "broken",
         "mirrorlib_objectives must return a list of Component"),
        (good("x").replace("return [", "return 1/0; ["), "broken", "ZeroDivisionError: division"),
        (good("x y"), "broken", "objective 'x y' has a name that no recipe can write"),
        (good("x").replace("__name__}:build", "__name__}.build"), "broken", "objective 'x': build"),
        (good("x").replace("@hookimpl\n", ""), "broken",
         "mirrorlib_objectives lacks the decorator @hookimpl"),
        (good("x").replace("mirrorlib_objectives()", "mirrorlib_objectives(core, api)"),
         "bad signature", "mirrorlib_objectives does not take api, core; leave it out"),
        (good("x").replace('summary="s"', 'summary="s", api=2'), "incompatible",
         "objective 'x' is written for version 2 of the interfaces, this is version 1: upgrade "
         "mirrorlib"),
        (good("x").replace('summary="s"', 'summary="s", api=0'), "incompatible",
         "objective 'x' is written for version 0 of the interfaces, this is version 1: upgrade "
         "the plugin"),
    ],
)  # fmt: skip
def test_a_faulty_plugin_harms_nobody_else(site, source, status, reason) -> None:
    site.add("mirrorlib-bad", source)
    site.add("mirrorlib-good", good("pull"))
    bad, fine = site.discover().rows
    assert (fine.distribution, fine.status) == ("mirrorlib-good", "ok")
    assert (bad.distribution, bad.status, bad.components) == ("mirrorlib-bad", status, ())
    assert bad.reason.startswith(reason), bad.reason
    assert "\n" not in bad.reason
    registry = Registry(Plugins([bad, fine]))
    assert registry.find("objective", "pull").distribution == "mirrorlib-good"
    with pytest.raises(ComponentError) as caught:
        registry.find("objective", "pulls")
    assert str(caught.value) == (
        "no objective named 'pulls'; there are: pull; did you mean 'pull'?; also installed: "
        f"mirrorlib-bad ({bad.status}: {bad.reason})"
    )


def test_misspelled_hook_is_told_and_the_rest_is_used(site) -> None:
    site.add("mirrorlib-x", good("pull") + good("push").replace("objectives", "objectivs"))
    row = only(site.discover())
    assert (row.status, [c.name for _, c in row.components]) == ("unknown hook", ["pull"])
    assert row.reason == ("mirrorlib_objectivs is no hook; did you mean 'mirrorlib_objectives'?")


def test_ctrl_c_while_loading_is_not_swallowed(site) -> None:
    site.add("mirrorlib-x", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        site.discover()


def test_one_entry_point_name_in_two_distributions(site) -> None:
    site.add("mirrorlib-a", good("a"), entry_point="same")
    site.add("mirrorlib-b", good("b"), entry_point="same")
    registry = Registry(site.discover())
    assert [row.status for row in registry.plugins.rows] == ["ok", "ok"]
    assert [offer.component.name for offer in registry.offers("objective")] == ["a", "b"]


def test_two_entry_points_of_one_distribution(site) -> None:
    module = site.add("mirrorlib-a", good("a"), module="mirrorlib_a_one")
    (site.folder / "mirrorlib_a_two.py").write_text(good("b"))
    points = f"[mirrorlib]\none = {module}\ntwo = mirrorlib_a_two\n"
    (site.folder / "mirrorlib_a-1.0.dist-info" / "entry_points.txt").write_text(points)
    assert [(r.entry_point, r.status) for r in site.discover().rows] == [
        ("one", "ok"), ("two", "ok"),
    ]  # fmt: skip
    (site.folder / "mirrorlib_a_three.py").write_text(good("a"))
    points = f"[mirrorlib]\none = {module}\nthree = mirrorlib_a_three\n"
    (site.folder / "mirrorlib_a-1.0.dist-info" / "entry_points.txt").write_text(points)
    registry = Registry(site.discover())
    assert {row.reason for row in registry.plugins.rows} == {
        "objective 'a' is offered twice by mirrorlib-a"
    }
    with pytest.raises(ComponentError, match="twice by one distribution: mirrorlib-a:a"):
        registry.find("objective", "mirrorlib-a:a")


def test_conflicts_matter_only_when_used(site) -> None:
    site.add("Mirrorlib.B", good("pull"))
    site.add("mirrorlib-a", good("pull"))
    site.add("mirrorlib-c", good("push"))
    rows = site.discover().rows
    assert [(row.distribution, row.status) for row in rows] == [
        ("mirrorlib-a", "conflict"), ("Mirrorlib.B", "conflict"), ("mirrorlib-c", "ok"),
    ]  # fmt: skip
    assert rows[0].reason == ("objective 'pull' is also in Mirrorlib.B: write mirrorlib-a:pull")
    registry = Registry(Plugins(reversed(rows)))
    assert registry.plugins.rows == rows
    assert registry.find("objective", "push").distribution == "mirrorlib-c"
    with pytest.raises(ComponentError) as caught:
        registry.find("objective", "pull")
    assert str(caught.value) == (
        "objective 'pull' is ambiguous: write Mirrorlib.B:pull or mirrorlib-a:pull"
    )
    assert registry.find("objective", "mirrorlib_b:pull").distribution == "Mirrorlib.B"
    with pytest.raises(ComponentError, match="did you mean 'mirrorlib-a:pull'"):
        registry.find("objective", "mirrorlib-aa:pull")


def test_ambiguous_component_in_a_recipe(fake_site, tmp_path: Path, recipe_file: Path) -> None:
    fake_site.add("mirrorlib-other", good("pull"))
    registry = Registry(fake_site.discover())
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(fake_site.folder))
        with pytest.raises(UserError, match="objective 'pull' is ambiguous: write mirrorlib-fake:"):
            load_recipe(recipe_file, registry=registry)
        name = "objective.name=mirrorlib-fake:pull"
        recipe = load_recipe(recipe_file, [name], registry=registry)
        assert recipe.resolved()["objective"]["name"] == "mirrorlib-fake:pull"


def test_disabled_by_distribution(site, monkeypatch) -> None:
    site.add("mirrorlib-a", "raise RuntimeError")
    site.add("mirrorlib-b", good("b"))
    monkeypatch.setenv("MIRRORLIB_DISABLE", "Mirrorlib_A, unheard-of")
    rows = site.discover().rows
    assert [(row.status, row.reason) for row in rows] == [
        ("disabled", "named in MIRRORLIB_DISABLE"), ("ok", ""),
    ]  # fmt: skip


def test_metadata_that_does_not_parse(site) -> None:
    site.add("mirrorlib-a", good("a"), entry_points="[mirrorlib]\nno equals sign\n")
    site.add("mirrorlib-b", good("b"))
    assert [(row.distribution, row.status) for row in site.discover().rows] == [
        ("mirrorlib-b", "ok"), ("unknown", "broken"),
    ]  # fmt: skip


def test_one_distribution_twice_on_the_path(site, monkeypatch) -> None:
    from importlib import metadata

    from mirrorlib import plugins

    site.add("mirrorlib-a", good("a"))
    monkeypatch.syspath_prepend(str(site.folder))
    path = [str(site.folder)] * 2
    monkeypatch.setattr(plugins, "distributions", lambda: metadata.distributions(path=path))
    assert only(plugins.discover()).status == "ok"


def test_watching_hooks_cannot_stop_a_run(site, capsys) -> None:
    site.add("mirrorlib-a", good("a") + WATCHING.replace("print(", "raise ValueError("))
    site.add("mirrorlib-b", good("b") + WATCHING)
    plugins = site.discover()
    plugins.notify("run_started", run=RunInfo("run-1", "folder", {}))
    plugins.notify("evaluated", run=RunInfo("run-1", "folder", {}), report={"a": 1.0})
    plugins.notify("run_finished", run=RunInfo("run-1", "folder", {}), status="finished")
    output = capsys.readouterr()
    assert output.out == "started run-1\n"
    assert output.err.splitlines() == [
        "mirrorlib: warning: mirrorlib-a failed in mirrorlib_run_started: "
        "ValueError: ('started', 'run-1')",
        "mirrorlib: warning: mirrorlib-a failed in mirrorlib_evaluated: SystemExit: no more",
        "mirrorlib: warning: mirrorlib-b failed in mirrorlib_evaluated: SystemExit: no more",
    ]


def test_checks_are_isolated(site, monkeypatch) -> None:
    site.add("mirrorlib-a", good("a") + WATCHING)
    site.add("mirrorlib-b", good("b") + WATCHING.replace("return [Check", "return None; [Check"))
    monkeypatch.syspath_prepend(str(site.folder))
    plugins = site.discover()
    rows = [(e.distribution, e.check.name, e.problem()) for e in plugins.diagnose(["mirrorlib_A"])]
    assert rows == [
        ("mirrorlib-a", "fine", None),
        ("mirrorlib-a", "broken", "mend me"),
        ("mirrorlib-a", "absent", "ModuleNotFoundError: No module named 'nowhere'"),
    ]
    assert list(plugins.diagnose(["mirrorlib-b"])) == []


def offers(plugins: Plugins) -> list[Offer]:
    return [
        Offer(kind, component, row.distribution, row.version)
        for row in plugins.rows
        for kind, component in row.components
    ]


def test_slow_checks_and_those_of_other_components_are_not_required(site, monkeypatch) -> None:
    site.add("mirrorlib-a", good("a") + CHOOSY)
    monkeypatch.syspath_prepend(str(site.folder))
    plugins = site.discover()
    checks = [examination.check for examination in plugins.diagnose(["mirrorlib-a"])]
    assert [check.name for check in checks] == ["drawing", "spare", "spare drawing"]
    plugins.require(offers(plugins), slow=False)
    with pytest.raises(UserError) as caught:
        plugins.require(offers(plugins))
    assert str(caught.value) == "mirrorlib-a: drawing: ran drawing"
    (offer,) = offers(plugins)
    pushing = replace(offer, component=replace(offer.component, name="push"))
    with pytest.raises(UserError, match="drawing: ran drawing\nmirrorlib-a: spare drawing: ran wh"):
        plugins.require([pushing])
    plugins.require([replace(pushing, kind="observer")], slow=False)
    site.add("mirrorlib-b", good("b") + WATCHING)
    with pytest.raises(UserError) as caught:
        found = site.discover()
        found.require(offers(found))
    assert str(caught.value) == (  # nothing slow is run once it is known that a run cannot be
        "mirrorlib-b: broken: mend me\n"
        "mirrorlib-b: absent: ModuleNotFoundError: No module named 'nowhere'"
    )


def test_checks_that_cannot_be_listed_are_a_problem(site) -> None:
    site.add("mirrorlib-a", good("a") + WATCHING.replace("return [Check", "return 1/0; [Check"))
    plugins = site.discover()
    problem = "mirrorlib-a: mirrorlib_checks: ZeroDivisionError: division by zero"
    for slow in (False, True):
        with pytest.raises(UserError, match=problem):
            plugins.require(offers(plugins), slow=slow)


def test_every_hook_is_documented_and_known() -> None:
    from mirrorlib import hookspecs

    assert all(getattr(hookspecs, hook).__doc__ for hook in HOOKS)
    assert set(hookspecs.HOOK_OF_KIND.values()) < HOOKS
    assert STATUSES[0] == "ok"


def test_a_kind_that_does_not_exist() -> None:
    with pytest.raises(ComponentError, match="no kind 'objectives'; did you mean 'objective'"):
        mirrorlib.components("objectives")  # type: ignore[arg-type]
